"""A figure for each utterance and the audio of each step that changed it; a callback of one's own is seen too."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lightning import Callback
from torch import Tensor

from speechkit.callbacks import FeatureAugmentation
from speechkit.cli.main import main
from speechkit.pipelines.preview import preview

SMALL = str(Path(__file__).with_name("small.yaml"))


class Raised(FeatureAugmentation):
    """Adds 1 to all features."""

    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        return features + 1.0


class Idle(Callback):
    """Changes nothing."""


def write_overlay(folder: Path, *names: str) -> str:
    path = folder / "own.yaml"
    path.write_text(f"trainer: {{callbacks: [{', '.join(f'{{class_path: {__name__}.{name}}}' for name in names)}]}}")
    return str(path)


def test_steps_are_what_changes(corpus: Path, tmp_path: Path) -> None:
    overlay = write_overlay(tmp_path, "Idle", "Raised")
    steps, rate = preview(str(corpus / "train.jsonl"), [SMALL, overlay], num_utterances=3)
    assert rate == 8000
    assert len(steps) == 3
    for of_utterance in steps.values():
        before, last = of_utterance[-2:]
        names = [step.name for step in of_utterance]
        assert names[0] == "original"
        assert names[-2:] == ["GainPerturbation", "Raised"]
        assert last.waveform is None
        torch.testing.assert_close(last.features, before.features + 1.0)


def test_the_command_writes_figures_and_audio(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["augment", "preview", str(corpus / "train.jsonl"), "--config", SMALL]
    assert main([*command, "--utterances", "1", "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "original, " in printed
    assert "SpecAugment" in printed
    assert (tmp_path / "out" / "train0.png").read_bytes()[:4] == b"\x89PNG"
    heard, rate = soundfile.read(tmp_path / "out" / "train0.0-original.wav", dtype="float32")
    original, _ = soundfile.read(corpus / "train0.wav", dtype="float32")
    assert rate == 8000
    np.testing.assert_allclose(heard, original, atol=1e-4)
    assert main([*command, "--utterances", "0", "-o", str(tmp_path / "none")]) == 2
