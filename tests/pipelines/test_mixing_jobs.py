"""All callbacks that change data at once: a resumed run is an unbroken one, and switched off they are not there."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from speechkit.bundle import load_bundle
from speechkit.callbacks import CutMix, StepSeed
from speechkit.cli.main import main

SMALL, MIXING = (str(Path(__file__).with_name(name)) for name in ("small.yaml", "mixing.yaml"))
OFF = [
    {"class_path": "CutMix", "init_args": {"probability": 0.0}},
    {"class_path": "SpecAugment", "init_args": {"max_warp_frames": 0, "time_masks_per_frame": 0.0}},
    {"class_path": "Cutout", "init_args": {"num_rectangles": 0}},
    {"class_path": "ManifoldMixup", "init_args": {"probability": 0.0}},
]


def finetune(out: Path, *more: str) -> bytes:
    assert main(["finetune", "--config", SMALL, "--out", str(out), *more]) == 0
    return (out / "bundle" / "model.safetensors").read_bytes()


class Interrupted(Exception):  # noqa: N818
    """What ends the training in mid-epoch."""


@pytest.mark.slow
def test_all_of_them_resume_bit_for_bit(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finetune(tmp_path / "whole", "--config", MIXING)
    steps, original = itertools.count(), StepSeed.on_train_batch_start

    def stop_later(self: StepSeed, *arguments: Any) -> None:
        if next(steps) == 7:
            raise Interrupted
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StepSeed, "on_train_batch_start", stop_later)
        with pytest.raises(Interrupted):
            finetune(tmp_path / "broken", "--config", MIXING, "--checkpoint-every", "1")
    saved = torch.load(tmp_path / "broken" / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert saved[CutMix.__qualname__]["borders"]
    assert finetune(tmp_path / "broken", "--config", MIXING, "--ckpt", "last") == whole
    plain = finetune(tmp_path / "plain")
    assert plain != whole
    bundles = [load_bundle(tmp_path / out / "bundle") for out in ("plain", "whole")]
    assert bundles[0].encoder.state_dict().keys() == bundles[1].encoder.state_dict().keys()


@pytest.mark.slow
def test_switched_off_they_are_not_there(corpus: Path, tmp_path: Path) -> None:
    off = [{**callback, "class_path": f"speechkit.callbacks.{callback['class_path']}"} for callback in OFF]
    assert finetune(tmp_path / "off", f"trainer.callbacks={json.dumps(off)}") == finetune(tmp_path / "plain")


def test_data_that_alignments_cannot_be_kept_of_is_refused_at_the_start(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joining = "data.joining=speechkit.data.UtteranceJoining"
    assert main(["finetune", "--config", SMALL, "--config", MIXING, "--out", str(tmp_path / "out"), joining]) == 2
    assert "`joining` must be none with CutMix" in capsys.readouterr().err
