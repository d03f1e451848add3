"""Two processes, as SLURM or torchrun starts them, replicated or sharded, train as one does; one goes on from two."""

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from speechkit.bundle import load_bundle
from speechkit.cli.main import main
from speechkit.data.archive_writer import write_archive

FOLDER = Path(__file__).parent
SHARDED = """\
trainer:
  strategy:
    class_path: lightning.pytorch.strategies.ModelParallelStrategy
    init_args:
      save_distributed_checkpoint: false
"""


def arguments(archive: Path, out: Path, *more: str) -> list[str]:
    recipes = ["--config", str(FOLDER / "small.yaml"), "--config", str(FOLDER / "many.yaml")]
    checkpoints = (
        f'--trainer.callbacks+={{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": '
        f'{{"dirpath": "{out}", "filename": "{{step}}", "every_n_train_steps": 2, "save_top_k": -1}}}}'
    )
    return ["finetune", *recipes, "--out", str(out), f"data.train=[{archive}]", checkpoints, *more]


def losses(out: Path) -> dict[int, float]:
    """Training loss of each step, by step."""
    with next(out.rglob("metrics.csv")).open() as file:
        return {int(row["step"]): float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]}


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start_as_slurm(command: list[str]) -> list[subprocess.Popen[str]]:
    """Two processes with the variables that `srun --ntasks-per-node=2` sets."""
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "test", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    node = {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": free_port()}
    environment = {**os.environ, **job, **node, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "speechkit", *command],
            env={**environment, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]


def run_as_slurm(command: list[str]) -> None:
    processes = start_as_slurm(command)
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert ["bundle: " in text for text in printed] == [True, False]


def run_as_torchrun(command: list[str]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "-m", "speechkit", *command], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_goes_on_from_two(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    assert list(write_archive([corpus / "train.jsonl"], archive, shard_utterances=4)) == []
    assert main(arguments(archive, tmp_path / "one")) == 0
    expected = losses(tmp_path / "one")
    assert len(expected) >= 6
    sharded = tmp_path / "sharded.yaml"
    sharded.write_text(SHARDED)
    run_as_slurm(arguments(archive, tmp_path / "replicated"))
    run_as_torchrun(arguments(archive, tmp_path / "sharded", "--config", str(sharded)))
    rest = {step: loss for step, loss in expected.items() if step >= 4}
    for name in ("replicated", "sharded"):
        assert losses(tmp_path / name) == pytest.approx(expected, abs=1e-5), name
        assert load_bundle(tmp_path / name / "bundle").head is not None
        resumed = tmp_path / f"{name}-resumed"
        assert main(arguments(archive, resumed, "--ckpt", str(tmp_path / name / "step=4.ckpt"))) == 0
        assert losses(resumed) == pytest.approx(rest, abs=1e-5), name
    again = arguments(archive, tmp_path / "again", "--config", str(sharded), "--ckpt")
    run_as_torchrun([*again, str(tmp_path / "sharded" / "step=4.ckpt")])
    assert losses(tmp_path / "again") == pytest.approx(rest, abs=1e-5)
    capsys.readouterr()
    assert main([*again, str(tmp_path / "one" / "step=4.ckpt"), "--out", str(tmp_path / "no")]) == 2
    assert "made without sharding" in capsys.readouterr().err


@pytest.mark.slow
def test_a_signal_to_one_process_ends_both_behind_one_step(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    endless = arguments(corpus / "train.jsonl", out, "trainer.max_epochs=100000", "--checkpoint-every", "1000000")
    processes = start_as_slurm(endless)
    deadline = time.monotonic() + 120
    while not (out / "logs" / "start-0" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    printed = [process.communicate(timeout=60)[0] for process in processes]
    steps = [re.findall(r"interrupted in step (\d+); --ckpt last goes on", text) for text in printed]
    assert steps[0] == steps[1], printed
    assert [process.returncode for process in processes] == [128 + signal.SIGINT, 128 + signal.SIGTERM]
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == int(steps[0][0])


def test_tasks_without_a_number_per_node_are_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert main(arguments(corpus / "train.jsonl", tmp_path / "out")) == 2
    assert "--ntasks-per-node must be given" in capsys.readouterr().err
