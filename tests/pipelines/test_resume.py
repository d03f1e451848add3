"""A run that is killed and resumed ends with the same weights, bit for bit."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from speechkit.callbacks import StepSeed
from speechkit.cli.main import main

SMALL = str(Path(__file__).with_name("small.yaml"))


def command(out: Path, *more: str) -> list[str]:
    arguments = ["finetune", "--config", SMALL, "--out", str(out), "--checkpoint-every", "1", *more]
    return [sys.executable, "-m", "speechkit", *arguments]


def finish(out: Path, *more: str) -> bytes:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(out, *more), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return (out / "bundle" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed(corpus: Path, tmp_path: Path) -> None:
    epochs = "trainer.max_epochs=40"
    whole = finish(tmp_path / "whole", epochs)
    broken = tmp_path / "broken"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(broken, epochs), env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)
    last = broken / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not finished
    assert not (broken / "bundle").exists()
    assert finish(broken, epochs, "--ckpt", "last") == whole


class Interrupted(Exception):  # noqa: N818
    """What ends the training in mid-epoch."""


@pytest.mark.slow
@pytest.mark.parametrize("first_steps", [1, 5, 7])
def test_stopped_anywhere_and_resumed(
    corpus: Path, tmp_path: Path, first_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch has five steps, so also behind the last batch of one."""

    def run(out: str, *more: str) -> bytes:
        assert main(["finetune", "--config", SMALL, "--out", str(tmp_path / out), *more]) == 0
        return (tmp_path / out / "bundle" / "model.safetensors").read_bytes()

    whole = run("whole", "--ckpt", "auto")  # there is nothing to go on from
    steps = itertools.count()
    original = StepSeed.on_train_batch_start

    def stop_later(self: StepSeed, *arguments: Any) -> None:
        if next(steps) == first_steps:
            raise Interrupted
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StepSeed, "on_train_batch_start", stop_later)
        with pytest.raises(Interrupted):
            run("broken", "--checkpoint-every", "1")
    assert run("broken", "--ckpt", "auto" if first_steps == 5 else "last") == whole


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(3, 7), (5, 7), (7, 8)])
def test_a_training_of_so_many_steps_goes_on_within_its_epoch(
    corpus: Path, tmp_path: Path, steps: tuple[int, int]
) -> None:
    """An epoch has five steps."""
    for place, count in enumerate(steps):
        more = ["--ckpt", "last"] if place else []
        options = [f"trainer.max_steps={count}", "trainer.max_epochs=-1", "data.dev=[]"]
        assert main(["finetune", "--config", SMALL, "--out", str(tmp_path), *options, *more]) == 0
        state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
        seen = state["SpeechDataModule"]
        assert state["global_step"] == count
        assert 5 * seen["epoch"] + seen["batches_done"] == count


@pytest.mark.slow
def test_another_learning_rate_is_refused(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["finetune", "--config", SMALL, "--out", str(tmp_path)]
    assert main([*run, "trainer.max_epochs=1"]) == 0
    assert main([*run, "--ckpt", "last", "trainer.max_epochs=2", "model.learning_rate=0.5"]) == 2
    assert "goes on at its model.learning_rate" in capsys.readouterr().err


@pytest.mark.slow
def test_a_signal_keeps_the_step_it_comes_in(corpus: Path, tmp_path: Path) -> None:
    """Sent to all processes, those that load data too, as a terminal (Ctrl-C) and a cluster (SIGTERM) do."""
    epochs = "trainer.max_epochs=40"
    whole = finish(tmp_path / "whole", epochs)
    for number in (signal.SIGINT, signal.SIGTERM):
        broken = tmp_path / number.name
        process = subprocess.Popen(
            [*command(broken, epochs, "data.num_workers=1"), "--checkpoint-every", "1000"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not (broken / "logs" / "start-0" / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + number, said
        assert "Traceback" not in said
        assert re.search(r"interrupted in step \d+; --ckpt last goes on", said)
        assert finish(broken, epochs, "--ckpt", "last") == whole


@pytest.mark.slow
def test_a_refused_resume_writes_nothing(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = ["finetune", "--config", SMALL, "--out", str(tmp_path)]
    assert main([*run, "trainer.max_epochs=2"]) == 0
    before = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert main([*run, "--ckpt", "last", "trainer.max_epochs=2"]) == 0
    assert "is as long already as trainer.max_epochs or max_steps says: nothing was trained" in caplog.text
    assert main([*run, "--ckpt", "last", "trainer.max_epochs=1"]) == 2
    assert re.search(r"trainer.max_epochs: --ckpt .* has 2 already, got 1", capsys.readouterr().err)
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == before


@pytest.mark.slow
def test_what_is_not_as_it_was_is_named(corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = ["finetune", "--config", SMALL, "--out", str(tmp_path)]
    assert main([*run, "trainer.max_epochs=1"]) == 0
    with caplog.at_level("WARNING", logger="speechkit"):
        assert main([*run, "--ckpt", "last", "trainer.max_epochs=2", "data.batch_seconds=7"]) == 0
    changed = [line for line in caplog.messages if line.startswith("goes on with another")]
    assert len(changed) == 1
    assert re.match(r"goes on with another data.batch_seconds: 7.0, which was ", changed[0])


@pytest.mark.slow
def test_an_optimizer_of_other_callbacks_is_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, arguments in (("DomainAdversarial", "{domain: speaker}"), ("LayerwiseRateDecay", "{decay: 0.5}")):
        callback = f"{{class_path: speechkit.callbacks.{name}, init_args: {arguments}}}"
        (tmp_path / f"{name}.yaml").write_text(f"trainer:\n  callbacks+: [{callback}]\n")

    def run(out: str, *more: str) -> int:
        return main(["finetune", "--config", SMALL, "--out", str(tmp_path / out), *more])

    layered, adversarial = (
        ["--config", f"{tmp_path}/{name}.yaml"] for name in ("LayerwiseRateDecay", "DomainAdversarial")
    )
    longer = ["--ckpt", "last", "trainer.max_epochs=2"]
    assert run("plain", "trainer.max_epochs=1") == 0
    assert run("layered", "trainer.max_epochs=1", *layered) == 0
    capsys.readouterr()
    assert run("plain", *longer, *adversarial) == 2
    assert "change the optimizer it was made with none, got DomainAdversarial" in capsys.readouterr().err
    assert run("layered", *longer) == 2
    assert "change the optimizer it was made with LayerwiseRateDecay, got none" in capsys.readouterr().err
    (tmp_path / "LayerwiseRateDecay.yaml").write_text(
        "trainer:\n  callbacks+: [{class_path: speechkit.callbacks.LayerwiseRateDecay}]\n"
    )
    assert run("layered", *longer, *layered) == 2
    assert "`decay` must be the checkpoint's 0.5, got 0.75" in capsys.readouterr().err


@pytest.mark.slow
def test_callbacks_that_come_and_go_are_named_and_an_average_is_not_taken_for_the_weights(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    overlays = {
        "ema": "[{class_path: speechkit.callbacks.EMA}, {class_path: speechkit.callbacks.SpecAugment}]",
        "noise": "[{class_path: speechkit.callbacks.FeatureNoise}]",
    }
    for name, callbacks in overlays.items():
        (tmp_path / f"{name}.yaml").write_text(f"trainer:\n  callbacks: {callbacks}\n")

    def run(out: str, *more: str, overlay: str = "") -> int:
        configs = ["--config", SMALL, *(["--config", str(tmp_path / f"{overlay}.yaml")] if overlay else [])]
        return main(["finetune", *configs, "--out", str(tmp_path / out), *more])

    assert run("plain", "trainer.max_epochs=1") == 0
    with caplog.at_level("WARNING", logger="speechkit"):
        assert run("plain", "--ckpt", "last", "trainer.max_epochs=2", overlay="noise") == 0
    assert {"goes on without the callback SpecAugment", "goes on with a new callback FeatureNoise"} <= set(
        caplog.messages
    )
    assert run("averaged", "trainer.max_epochs=1", overlay="ema") == 0
    before = (tmp_path / "averaged" / "config.yaml").read_bytes()
    assert run("averaged", "--ckpt", "last", "trainer.max_epochs=2") == 2
    assert "made with an average of the weights; name that callback here too" in capsys.readouterr().err
    assert (tmp_path / "averaged" / "config.yaml").read_bytes() == before
    content = torch.load(tmp_path / "averaged" / "checkpoints" / "last.ckpt", weights_only=True)
    average, trained = content["state_dict"], content["current_model_state"]
    assert any(not torch.equal(average[name], trained[name]) for name in average)
