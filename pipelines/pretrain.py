"""Pretraining: audio alone -> the bundle of an encoder."""

import os
from collections.abc import Sequence
from pathlib import Path

from speechkit.pipelines.training import train
from speechkit.tasks import ContrastivePretraining


def pretrain(
    configs: Sequence[str],
    out: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    resume_from: str | None = None,
    checkpoint_every_n_steps: int = 200,
) -> Path:
    """Trains `ContrastivePretraining`; arguments as in `speechkit.pipelines.training.train`. Returns the bundle."""
    return train(
        ContrastivePretraining,
        configs,
        out,
        overrides,
        command="pretrain",
        resume_from=resume_from,
        checkpoint_every_n_steps=checkpoint_every_n_steps,
    )
