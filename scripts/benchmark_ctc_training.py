"""Training with the CTC loss of speechkit and with torch's: the same losses step by step, and the time of both.

`python scripts/benchmark_ctc_training.py` trains the recipe `digits` for some steps, on one thread and from one seed:
with either loss in turn, for the time; and once with torch's, while speechkit's is computed from the same logits.
Rounding alone makes two trainings in float32 part company within some steps: how fast is seen from a third one, whose
CTC is in float64. All goes to benchmarks/results/ctc_training.json.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechkit.losses import CTCLoss

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
BACKENDS = ("torch", "auto")
os.environ.setdefault("SPEECHKIT_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))


class BothLosses(CTCLoss):
    """torch's losses, beside which speechkit's are written down: a JSON line a step, the mean of each.

    Args:
        out: file to write to.
        blank: id of the blank.
    """

    def __init__(self, *, out: str, blank: int = 0) -> None:
        super().__init__(blank=blank, backend="torch")
        self.out = out
        self.ours = CTCLoss(blank=blank)

    def forward(self, *args: Tensor, **kwargs: Any) -> Tensor:
        """As that of `CTCLoss`."""
        theirs = super().forward(*args, **kwargs)
        with torch.no_grad():
            row = {"torch": theirs.mean().item(), "speechkit": self.ours(*args, **kwargs).mean().item()}
        with open(self.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return theirs


def train(recipe: str, steps: int, loss: str, *options: str) -> tuple[list[float], float]:
    """Losses of the steps, and seconds of the process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "speechkit", "finetune", "--config", recipe, "--out", folder]
        command += [f"model.loss={loss}", *(f"model.loss.init_args.{option}" for option in options)]
        command += [f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "trainer.log_every_n_steps=1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        seconds = time.perf_counter() - start
        with next(Path(folder).rglob("metrics.csv")).open(encoding="utf-8") as file:
            losses = [float(row["train_loss"]) for row in csv.DictReader(file) if row.get("train_loss")]
    return losses, seconds


def difference(ours: list[float], theirs: list[float]) -> float:
    """The largest of the relative ones over the steps."""
    return max(abs(a / b - 1.0) for a, b in zip(ours, theirs, strict=True))


def on_the_same_logits(recipe: str, steps: int) -> float:
    """The largest relative difference between the losses of a step."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
        train(recipe, steps, "benchmark_ctc_training.BothLosses", f"out={file.name}")
        rows = [json.loads(line) for line in file][:steps]
    return difference([row["speechkit"] for row in rows], [row["torch"] for row in rows])


def main() -> None:
    """Trains in turn and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    arguments = parser.parse_args()
    recipe, steps, loss = arguments.recipe, arguments.steps, "speechkit.losses.CTCLoss"
    losses: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for turn in range(arguments.rounds):
        for backend in BACKENDS:
            losses[backend], took = train(recipe, steps, loss, f"backend={backend}")
            seconds[backend].append(took)
            print(f"round {turn + 1}, {backend}: {took:.1f} s", flush=True)
    losses["reference"], _ = train(recipe, steps, loss, "backend=reference")
    differences = {
        "on the same logits": on_the_same_logits(recipe, steps),
        "of two trainings, speechkit and torch": difference(losses["auto"], losses["torch"]),
        "of two trainings, speechkit and float64": difference(losses["auto"], losses["reference"]),
        "of two trainings, torch and float64": difference(losses["torch"], losses["reference"]),
    }
    medians = {backend: statistics.median(values) for backend, values in seconds.items()}
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {package: importlib.metadata.version(package) for package in ("torch", "lightning", "numba")},
        "recipe": arguments.recipe,
        "steps": steps,
        "largest_relative_difference_of_the_loss": differences,
        "seconds": medians,
        "times_faster": medians["torch"] / medians["auto"],
        "losses": losses,
    }
    (RESULTS / "ctc_training.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{result['times_faster']:.3f} times faster; largest relative differences of the loss: {differences}")


if __name__ == "__main__":
    main()
