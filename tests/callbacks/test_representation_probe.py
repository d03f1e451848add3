"""The probe while training is refused where one rank cannot run the encoder."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.strategies import ModelParallelStrategy

from speechkit.callbacks import RepresentationProbe


def test_shards_are_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=ModelParallelStrategy())
    with pytest.raises(ValueError, match=r"RepresentationProbe must not be used with `trainer.strategy`"):
        RepresentationProbe("dev.jsonl").setup(trainer, None, "fit")
