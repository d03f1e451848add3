"""What each callback costs in a training step.

`python scripts/benchmark_callbacks.py` trains the recipe `digits` for some steps without callbacks and with each one in
turn, on one thread, and writes benchmarks/results/callbacks.{json,md}. Both trainings are in one process and take turns
after every step, so that whatever else the machine does meets both. A step is timed from before its callbacks begin
until they have ended, in CPU time of its thread. Several rounds train on the same batches; of each step the median
round counts. The ratio is that of the sums over the steps, its interval a bootstrap over them.
A callback that orders the batches anew is timed over a whole epoch. Callbacks that begin later are made to begin at
once. CutMix finds nothing to cut in texts of one word, and without an epoch before: it is left out unless it is named,
for a recipe of longer texts (--config) and more steps than an epoch. Waveform perturbations are not in it: they run in
the data workers.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import threading
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
ARGUMENTS: dict[str, dict[str, Any]] = {
    "DomainAdversarial": {"domain": "speaker"},
    "MinimumWordErrorRate": {"start_fraction": 0.0},
    "PseudoLabel": {"start_fraction": 0.0},
    "SWA": {"start_fraction": 0.01},
}
REORDERS = ("Curriculum",)
WARMUP_STEPS = 3
MOST_STEPS = 100_000
CMVN: dict[str, Any] = {}  # fitted once for each recipe


class StepStart(lightning.Callback):
    """Stands first: lets the other training take its step, and then notes when this one's began."""

    def __init__(self, own_turn: threading.Semaphore, others_turn: threading.Semaphore) -> None:
        self.own_turn, self.others_turn = own_turn, others_turn
        self.times: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.others_turn.release()
        self.own_turn.acquire()
        self.times.append(time.thread_time())


class StepEnd(lightning.Callback):
    """Stands last: when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.times.append(time.thread_time())


def set_up(recipe: str, steps: int | None, callback: dict[str, Any] | None) -> Any:
    """A training of one seed, for so many steps or one epoch."""
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
    cmvn: Any = cli.model.front_end.cmvn
    if recipe in CMVN:
        cmvn.load_state_dict(CMVN[recipe])
    elif cmvn is not None:
        fit_global_cmvn(cli.model, cli.datamodule)
        CMVN[recipe] = cmvn.state_dict()
    return cli


def step_seconds(recipe: str, steps: int | None, callback: dict[str, Any]) -> list[list[float]]:
    """Without and with the callback, in turn: seconds of each step but the first ones."""
    turns = [threading.Semaphore(0), threading.Semaphore(0)]
    trainings = [set_up(recipe, steps, chosen) for chosen in (None, callback)]
    starts = [StepStart(turns[place], turns[1 - place]) for place in (0, 1)]
    ends = [StepEnd(), StepEnd()]
    failed: list[BaseException] = []

    def fit(place: int) -> None:
        trainer = trainings[place].trainer
        trainer.callbacks = [starts[place], *trainer.callbacks, ends[place]]
        try:
            trainer.fit(trainings[place].model, datamodule=trainings[place].datamodule)
        except Exception as error:
            failed.append(error)
        turns[1 - place].release(MOST_STEPS)  # the other one goes on alone

    threads = [threading.Thread(target=fit, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return [
        [later - earlier for earlier, later in zip(start.times, end.times, strict=True)][WARMUP_STEPS:]
        for start, end in zip(starts, ends, strict=True)
    ]


def measure(recipe: str, callback: dict[str, Any], steps: int | None, rounds: int) -> dict[str, Any]:
    """Of each step its median round."""
    seconds = np.array([step_seconds(recipe, steps, callback) for _ in range(rounds)])  # (rounds, 2, steps)
    without, with_callback = np.median(seconds, axis=0)
    draws = np.random.default_rng(0).integers(len(without), size=(2000, len(without)))
    ratios = with_callback[draws].sum(axis=1) / without[draws].sum(axis=1)
    return {
        "ratio": float(with_callback.sum() / without.sum()),
        "ratio_interval": np.quantile(ratios, [0.025, 0.975]).tolist(),
        "milliseconds_without": 1000 * float(without.mean()),
        "milliseconds_with": 1000 * float(with_callback.mean()),
    }


def main() -> None:
    """Measures and writes; other rows of the results stay. What cannot be set up with its arguments is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("callbacks", nargs="*", metavar="NAME", help="(all that are not always on)")
    parser.add_argument("--config", default="digits", help="recipe (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--args", type=json.loads, default={}, help='{"NAME": {"argument": value}}')
    parser.add_argument("--results", type=Path, default=RESULTS, help="(%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = [plug_in.name for plug_in in list_plug_ins() if plug_in.kind == "callback"]
    names = [find_plug_in(name).name for name in arguments.callbacks] or [
        name for name in every if name not in (*ALWAYS_ON, *NEEDS_LONGER_TEXTS)
    ]
    path = arguments.results / "callbacks.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["callbacks"] if path.exists() else {}
    for name in names:
        given = ARGUMENTS.get(name, {}) | arguments.args.get(name, {})
        callback = {"class_path": f"speechkit.callbacks.{name}", "init_args": given}
        try:
            steps = None if name in REORDERS else arguments.steps
            row = measure(arguments.config, callback, steps, arguments.rounds)
        except ValueError as error:
            row = {"not measured": str(error)}
        print(name, row, flush=True)
        rows[name] = {"recipe": arguments.config, "steps": steps, "rounds": arguments.rounds, **row}
        result = {
            "command": " ".join(["python", *sys.argv]),
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
            "versions": {package: importlib.metadata.version(package) for package in ("torch", "lightning", "numba")},
            "callbacks": {name: rows[name] for name in every if name in rows},
        }
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        write_table(result, path.with_suffix(".md"))


def write_table(result: dict[str, Any], path: Path) -> None:
    """callbacks.md from the JSON."""
    lines = [
        "# What callbacks cost in a training step",
        "",
        "Made by `scripts/benchmark_callbacks.py`, which says how.",
    ]
    lines += ["", "| callback | recipe | time of a step | 95 % | ms without | ms with |", "|---|---|---|---|---|---|"]
    for name, row in result["callbacks"].items():
        if "ratio" in row:
            low, high = row["ratio_interval"]
            times = f"{row['milliseconds_without']:.1f} | {row['milliseconds_with']:.1f}"
            lines.append(f"| {name} | {row['recipe']} | x {row['ratio']:.3f} | {low:.3f} to {high:.3f} | {times} |")
        else:
            lines.append(f"| {name} | {row['recipe']} | not measured: {row['not measured']} | | | |")
    lines += ["", f"{result['machine']}, {result['date']}."]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
