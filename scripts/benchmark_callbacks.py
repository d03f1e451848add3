"""What each callback costs in a training step.

`python scripts/benchmark_callbacks.py` trains the recipe `digits` for some steps without callbacks and with each one in
turn, several rounds in one process and on one thread, and writes benchmarks/results/callbacks.{json,md}. A step is
timed from before its callbacks begin until they have ended, in CPU time of the process, which other work on the machine
disturbs least. Every round trains on the same batches, and of each step the fastest round counts, with and without; the
ratio is that of the sums over the steps, its interval a bootstrap over them.
Of a callback that orders the batches anew, the ratio is that of whole epochs.
Callbacks that begin later are made to begin at once. CutMix finds nothing to cut in texts of one word, and without an
epoch before: it is left out unless it is named, for a recipe of longer texts (--config) and more steps than an epoch.
Waveform perturbations are not in it: they run in the data workers.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from speechkit.pipelines.plug_ins import find_plug_in, list_plug_ins
from speechkit.pipelines.recipes import find_recipe
from speechkit.pipelines.training import fit_global_cmvn, parse
from speechkit.tasks import Recognition

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
os.environ.setdefault("SPEECHKIT_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
ALWAYS_ON = ("StepSeed", "Throughput")
NEEDS_LONGER_TEXTS = ("CutMix",)
FROM_THE_START = {
    "MinimumWordErrorRate": {"start_fraction": 0.0},
    "PseudoLabel": {"start_fraction": 0.0},
    "SWA": {"start_fraction": 0.01},
}
REORDERS = ("Curriculum",)
WARMUP_STEPS = 3
CMVN: dict[str, Any] = {}  # fitted once for each recipe


class StepStart(lightning.Callback):
    """Stands first: when each step began."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.times.append(time.process_time())


class StepEnd(lightning.Callback):
    """Stands last: when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.times.append(time.process_time())


def step_seconds(recipe: str, steps: int | None, callback: dict[str, Any] | None) -> list[float]:
    """Trains anew from one seed, for so many steps or one epoch; seconds of each step but the first ones."""
    options = ["logger=false", "enable_checkpointing=false", "enable_progress_bar=false", "enable_model_summary=false"]
    options += ["max_epochs=1"] if steps is None else [f"max_steps={steps}", "max_epochs=-1"]
    options += ["limit_val_batches=0", "num_sanity_val_steps=0"]
    options.append(f"callbacks={json.dumps([callback] if callback else [])}")
    overrides = ["data.dev=[]", "data.perturbations=[]", "data.num_workers=0", *(f"trainer.{item}" for item in options)]
    cli = parse(
        Recognition,
        [find_recipe(recipe)],
        overrides,
        trainer_defaults={"gradient_clip_val": 5.0},
    )
    trainer: Any = cli.trainer
    cmvn: Any = cli.model.front_end.cmvn
    if recipe in CMVN:
        cmvn.load_state_dict(CMVN[recipe])
    elif cmvn is not None:
        fit_global_cmvn(cli.model, cli.datamodule)
        CMVN[recipe] = cmvn.state_dict()
    start, end = StepStart(), StepEnd()
    trainer.callbacks = [start, *trainer.callbacks, end]
    trainer.fit(cli.model, datamodule=cli.datamodule)
    return [later - earlier for earlier, later in zip(start.times, end.times, strict=True)][WARMUP_STEPS:]


def measure(recipe: str, callback: dict[str, Any], steps: int | None, rounds: int) -> dict[str, float]:
    """Interleaved with none; of a step its fastest round, or of an epoch."""
    runs = [[step_seconds(recipe, steps, chosen) for chosen in (None, callback)] for _ in range(rounds)]
    seconds = np.array(runs)  # (rounds, without and with, steps)
    if steps is None:
        seconds = seconds.sum(axis=2, keepdims=True)
    without, with_callback = seconds.min(axis=0)
    draws = np.random.default_rng(0).integers(len(without), size=(2000, len(without)))
    ratios = with_callback[draws].sum(axis=1) / without[draws].sum(axis=1)
    return {
        "ratio": float(with_callback.sum() / without.sum()),
        "ratio_interval": np.quantile(ratios, [0.025, 0.975]).tolist(),
        "milliseconds_without": 1000 * float(without.mean()),
        "milliseconds_with": 1000 * float(with_callback.mean()),
    }


def main() -> None:
    """Measures and writes; what cannot be set up with its defaults is named with the reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("callbacks", nargs="*", metavar="NAME", help="(all that are not always on)")
    parser.add_argument("--config", default="digits", help="recipe (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--args", type=json.loads, default={}, help='{"NAME": {"argument": value}}')
    parser.add_argument("--results", type=Path, default=RESULTS, help="(%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = [plug_in.name for plug_in in list_plug_ins() if plug_in.kind == "callback"]
    names = [find_plug_in(name).name for name in arguments.callbacks] or [
        name for name in every if name not in (*ALWAYS_ON, *NEEDS_LONGER_TEXTS)
    ]
    rows: dict[str, Any] = {}
    for name in names:
        given = FROM_THE_START.get(name, {}) | arguments.args.get(name, {})
        callback = {"class_path": f"speechkit.callbacks.{name}", "init_args": given}
        try:
            steps = None if name in REORDERS else arguments.steps
            rows[name] = measure(arguments.config, callback, steps, arguments.rounds)
        except ValueError as error:
            rows[name] = {"not measured": str(error)}
        print(name, rows[name], flush=True)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {package: importlib.metadata.version(package) for package in ("torch", "lightning", "numba")},
        "recipe": arguments.config,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "callbacks": rows,
    }
    lines = ["# What callbacks cost in a training step", "", "Made by `scripts/benchmark_callbacks.py`."]
    lines[-1] += f" Recipe `{arguments.config}`, {arguments.rounds} x {arguments.steps} steps, interleaved with none."
    lines += ["", "| callback | time of a step | 95 % | ms without | ms with |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        if "ratio" in row:
            low, high = row["ratio_interval"]
            times = f"{row['milliseconds_without']:.1f} | {row['milliseconds_with']:.1f}"
            lines.append(f"| {name} | x {row['ratio']:.3f} | {low:.3f} to {high:.3f} | {times} |")
        else:
            lines.append(f"| {name} | not measured: {row['not measured']} | | | |")
    lines += ["", f"{result['machine']}, {result['date']}."]
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "callbacks.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (arguments.results / "callbacks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
