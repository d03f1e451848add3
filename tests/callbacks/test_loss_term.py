"""Plug-ins that add a term to the loss: off they change nothing, on they leave nothing behind, and they add up."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from loss_terms_job import __file__ as JOB
from loss_terms_job import all_terms, fit, recognition, write_teacher

from speechkit.bundle import save_bundle
from speechkit.callbacks import ConfidencePenalty, LossTerm, MinimumWordErrorRate
from speechkit.encoders import ConvGRUEncoder
from speechkit.features import MFB, FrontEnd
from speechkit.tasks import ContrastivePretraining

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "The '.*dataloader' does not have many workers",
        "You're resuming from a checkpoint that ended before",  # the sampler resumes, see SpeechDataModule.state_dict
        "Be aware that when using `ckpt_path`",
    )
]


class SumOfLogits(LossTerm):
    """A term that is easy to follow."""

    def term(self, logits, targets, input_lengths, target_lengths):
        return logits.sum(dim=(1, 2))


LOSS_INPUT = (
    torch.randn(3, 9, 5),
    torch.tensor([[1, 2], [2, 0], [3, 3]]),
    torch.tensor([9, 6, 2]),
    torch.tensor([2, 1, 2]),
)


@pytest.fixture
def trainer() -> lightning.Trainer:
    return lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


@pytest.fixture
def manifest(make_tone: Callable[..., Path], tmp_path: Path) -> str:
    """Seven utterances in three batches, one of them of a single utterance."""
    rows = []
    for place, seconds in enumerate([0.5, 0.6, 0.8, 1.1, 1.3, 2.0, 3.9]):
        audio = make_tone(f"{place}.wav", hz=200 + 150 * place, seconds=seconds, rate=8000, seed=place)
        rows.append({"audio_filepath": str(audio), "duration": seconds, "text": ["ab c", "c a", "b"][place % 3]})
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    return write_teacher(tmp_path / "teacher")


def test_the_term_is_added_while_training_and_where_there_is_an_alignment(trainer: lightning.Trainer) -> None:
    task, callback = recognition(), SumOfLogits(0.5)
    plain = task.loss(*LOSS_INPUT)
    callback.setup(trainer, task, "fit")
    expected = plain + 0.5 * LOSS_INPUT[0].sum(dim=(1, 2))
    torch.testing.assert_close(task.loss(*LOSS_INPUT), torch.stack([*expected[:2], torch.tensor(0.0)]))
    assert torch.equal(task.eval().loss(*LOSS_INPUT), plain)
    callback.teardown(trainer, task, "fit")
    assert torch.equal(task.train().loss(*LOSS_INPUT), plain)


def test_half_precision_is_computed_in_single(trainer: lightning.Trainer) -> None:
    task, callback = recognition(), ConfidencePenalty(1.0)
    callback.setup(trainer, task, "fit")
    logits = LOSS_INPUT[0].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = task.loss(logits, *LOSS_INPUT[1:])
    torch.testing.assert_close(losses, task.loss(logits.float(), *LOSS_INPUT[1:]))


def test_wrong_weights_and_tasks_are_named(trainer: lightning.Trainer) -> None:
    for weight in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`weight` must be finite and not negative"):
            SumOfLogits(weight)
    task = ContrastivePretraining(front_end=FrontEnd(features=MFB(num_mels=20)), encoder=ConvGRUEncoder(input_dim=20))
    with pytest.raises(ValueError, match="needs a task with a `loss`, ContrastivePretraining has none"):
        SumOfLogits(0.1).setup(trainer, task, "fit")


def weights(task: lightning.LightningModule) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in task.parameters()])


def test_off_is_the_same_training_bit_for_bit(manifest: str, teacher: str) -> None:
    _, plain = fit(manifest, [])
    _, off = fit(manifest, all_terms(teacher, strength=0.0))
    assert torch.equal(weights(off), weights(plain))


def test_on_they_survive_a_resume_and_leave_nothing_behind(manifest: str, teacher: str, tmp_path: Path) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path / "kept", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    _, whole = fit(manifest, [*all_terms(teacher), keep])
    _, resumed = fit(manifest, all_terms(teacher), ckpt_path=str(tmp_path / "kept/step=2.ckpt"))
    assert torch.equal(weights(whole), weights(resumed))
    _, plain = fit(manifest, [])
    assert not torch.allclose(weights(whole), weights(plain))
    assert whole.state_dict().keys() == plain.state_dict().keys()
    assert not whole.loss._forward_hooks
    assert not whole.loss._forward_pre_hooks
    checkpoint = torch.load(tmp_path / "kept/step=4.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == plain.state_dict().keys()
    assert list(checkpoint["callbacks"]) == [keep.state_key]
    for task, name in ((whole, "whole"), (plain, "plain")):
        save_bundle(task.bundle(), tmp_path / name)
    assert (tmp_path / "whole/config.yaml").read_text() == (tmp_path / "plain/config.yaml").read_text()


def test_risk_waits_for_its_share_of_the_training(manifest: str, tmp_path: Path) -> None:
    results = []
    for name, callbacks in (("plain", []), ("late", [MinimumWordErrorRate(5.0, start_fraction=0.5)])):
        keep = ModelCheckpoint(dirpath=tmp_path / name, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer, _ = fit(manifest, [*callbacks, keep])
        paths = [tmp_path / name / f"step={step}.ckpt" for step in (trainer.global_step // 2, trainer.global_step)]
        results.append([torch.load(path, weights_only=True)["state_dict"]["head.projection.weight"] for path in paths])
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(manifest: str, teacher: str, tmp_path: Path) -> None:
    results = []
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        out = tmp_path / f"{processes}.pt"
        command = [sys.executable, *(launcher if processes > 1 else []), JOB, manifest, teacher, str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(torch.load(out, weights_only=True))
    for alone, together in zip(*results, strict=True):
        for name, gradient in alone.items():
            torch.testing.assert_close(together[name], gradient, atol=1e-5, rtol=1e-4)
