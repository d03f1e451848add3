"""What each callback is worth: a recipe with and without it, over seeds, with intervals.

`python scripts/ablate.py --config digits --variants scripts/ablation/digits.yaml --seeds 5 --jobs 2` trains every
variant of the file with every seed, for equally many steps, scores the bundles, and writes
benchmarks/results/ablation_digits.{json,md} and docs/callbacks/ablation-digits.png. What each training made of each
utterance is a line of ablation_digits_runs.jsonl; what has one is not done again, and what was interrupted goes on from
its run folder, so that an ablation may take days and several machines. A line of another plan (recipe, overlays, steps,
sets) is refused. --only trains some variants; those that are whole, from whatever call, are in the table.

The file of variants has the keys

    steps: 3000               optimizer steps of every training
    rate: wer                 what the plot shows, and what is compared: wer or cer
    label_minutes: 30         if given: $SPEECHKIT_LABELS/train.jsonl becomes a manifest of so many labelled minutes
    base: {...}               an overlay on the recipe, for all variants
    sets: {name: {manifest: FILE, speakers: [...]}}     what is scored; FILE or [FILE, ...]; speakers if given
    variants: {name: [...]}   overlays, or names of other variants, whose overlays they stand for; the first one is what
                              the others are held against

Intervals are percentiles of a bootstrap over utterances (Bisani and Ney 2004) and over seeds; the same draws for all
variants, so those of differences are paired. With a few seeds they are narrower than the truth.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from speechkit.data.manifest import expand_path

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("SPEECHKIT_DATA", str(ROOT.parent / "shared" / "data"))
KEYS = {"steps", "rate", "label_minutes", "base", "sets", "variants"}
COUNTS = {"wer": ("word_errors", "words"), "cer": ("character_errors", "characters")}
NUM_SAMPLES = 5000


class Job(NamedTuple):
    """One training."""

    variant: str
    seed: int
    digest: str  # of all that makes it what it is
    configs: list[str]
    out: Path
    steps: int
    sets: dict[str, str]  # name -> manifest


def run_job(job: Job) -> dict[str, Any]:
    """Trains and scores, in a process that has imported everything already."""
    torch.set_num_threads(1)
    job.out.mkdir(parents=True, exist_ok=True)
    with (job.out / "log.txt").open("a", encoding="utf-8") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            scores, steps = _train_and_score(job)
    timing = json.loads((job.out / "seconds.json").read_text(encoding="utf-8"))
    names = {"variant": job.variant, "seed": job.seed, "digest": job.digest}
    return {**names, "steps": steps, "seconds": sum(timing), "sets": scores}


def _train_and_score(job: Job) -> tuple[dict[str, Any], int]:
    from speechkit.pipelines.evaluate import evaluate
    from speechkit.pipelines.finetune import finetune
    from speechkit.recognizer import Recognizer

    bundle = job.out / "bundle"
    if not (bundle / "config.yaml").exists():
        overrides = [f"seed_everything={job.seed}", f"trainer.max_steps={job.steps}", "trainer.max_epochs=-1"]
        overrides += ["trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", "data.num_workers=0"]
        timing = job.out / "seconds.json"  # of every start, so that an interrupted run is not reported as a fast one
        before = json.loads(timing.read_text(encoding="utf-8")) if timing.exists() else []
        start = time.process_time()  # of the processor, so that what else it does is not counted
        try:
            finetune(job.configs, job.out, overrides, resume_from="auto")
        finally:
            timing.write_text(json.dumps([*before, round(time.process_time() - start, 1)]), encoding="utf-8")
    last = torch.load(job.out / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    recognizer = Recognizer.load(bundle)
    return {name: _counts(evaluate(recognizer, manifest)) for name, manifest in job.sets.items()}, last["global_step"]


def _counts(evaluation: Any) -> dict[str, list[int]]:
    """Errors and lengths of each utterance."""
    of_words = [item.word_counts for item in evaluation.utterances]
    of_characters = [item.character_counts for item in evaluation.utterances]
    return {
        "word_errors": [counts.errors for counts in of_words],
        "words": [counts.length for counts in of_words],
        "character_errors": [counts.errors for counts in of_characters],
        "characters": [counts.length for counts in of_characters],
    }


def bootstrap_rates(errors: np.ndarray, lengths: np.ndarray, *, num_samples: int, seed: int = 0) -> np.ndarray:
    """Error rates of resampled seeds and utterances, the same draws for all variants.

    Args:
        errors: (variants, seeds, utterances).
        lengths: (utterances,).
        num_samples: draws.
        seed: of the draws.

    Returns:
        (num_samples, variants).
    """
    _, num_seeds, num_utterances = errors.shape
    generator = np.random.default_rng(seed)
    of_seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_samples)
    of_utterances = generator.multinomial(num_utterances, np.full(num_utterances, 1 / num_utterances), size=num_samples)
    sums = np.einsum("rs,vsn,rn->rv", of_seeds, errors, of_utterances, optimize=True)
    return sums / (num_seeds * of_utterances @ lengths)[:, None]


def summarise(runs: dict[str, list[dict[str, Any]]], set_name: str) -> dict[str, dict[str, Any]]:
    """For each variant its mean rates on a set, and its changes against the first variant, each with an interval.

    Raises:
        ValueError: the first variant makes no errors.
    """
    rows: dict[str, dict[str, Any]] = {name: {} for name in runs}
    for rate, (errors_key, lengths_key) in COUNTS.items():
        errors = np.array([[run["sets"][set_name][errors_key] for run in of_seeds] for of_seeds in runs.values()])
        lengths = np.array(next(iter(runs.values()))[0]["sets"][set_name][lengths_key])
        if not errors[0].any():
            raise ValueError(f"the first variant makes no errors on {set_name}, so there is nothing to compare with.")
        samples, means = bootstrap_rates(errors, lengths, num_samples=NUM_SAMPLES), errors.mean(axis=1).sum(axis=1)
        means = means / lengths.sum()
        with_errors = samples[samples[:, 0] > 0]  # of few utterances some draws have none
        changes = with_errors / with_errors[:, :1] - 1.0
        for place, row in enumerate(rows.values()):
            row[rate] = float(means[place])
            row[f"{rate}_interval"] = np.quantile(samples[:, place], [0.025, 0.975]).tolist()
            row[f"{rate}_of_seeds"] = (errors[place].sum(axis=1) / lengths.sum()).tolist()
            row[f"{rate}_change"] = float(means[place] / means[0] - 1.0)
            row[f"{rate}_change_interval"] = np.quantile(changes[:, place], [0.025, 0.975]).tolist()
    return rows


def overlays_of(variants: dict[str, list[Any]], name: str) -> list[dict[str, Any]]:
    """The overlays of a variant, those of the variants that it names in their place.

    Raises:
        ValueError: a name that is no variant.
    """
    if name not in variants:
        raise ValueError(f"`variants` must hold what others name, got {name!r}.")
    parts = [overlays_of(variants, item) if isinstance(item, str) else [item] for item in variants[name]]
    return [overlay for part in parts for overlay in part]


def plan_jobs(plan: dict[str, Any], recipes: list[str], runs: Path, seeds: list[int]) -> list[Job]:
    """Every training, seeds outermost, so that an interrupted ablation has some of everything."""
    runs.mkdir(parents=True, exist_ok=True)
    sets = {name: str(_manifest_of(chosen, runs / f"{name}.jsonl")) for name, chosen in plan["sets"].items()}
    jobs = []
    for name in plan["variants"]:
        configs = list(recipes)
        for place, overlay in enumerate([plan.get("base") or {}, *overlays_of(plan["variants"], name)]):
            path = runs / f"{name}.{place}.yaml"
            path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
            configs.append(str(path))
        chosen = {key: plan.get(key) for key in ("steps", "label_minutes", "base", "sets")}
        content = json.dumps([recipes, chosen, overlays_of(plan["variants"], name)], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        for seed in seeds:
            jobs.append(Job(name, seed, digest, configs, runs / f"{name}-{seed}-{digest}", plan["steps"], sets))
    return sorted(jobs, key=lambda job: job.seed)


def _manifest_of(chosen: dict[str, Any], out: Path) -> Path:
    """A manifest as it is, or what several say, or some of their speakers only."""
    given = chosen["manifest"]
    sources = [expand_path(name).resolve() for name in ([given] if isinstance(given, str) else given)]
    if len(sources) == 1 and "speakers" not in chosen:
        return sources[0]
    rows = []
    for source in sources:
        for row in map(json.loads, source.read_text(encoding="utf-8").splitlines()):
            if "speakers" not in chosen or row["speaker"] in chosen["speakers"]:
                rows.append({**row, "audio_filepath": str((source.parent / row["audio_filepath"]).resolve())})
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out


def write_table(result: dict[str, Any], path: Path) -> None:
    """Markdown from the JSON."""
    sets = list(result["sets"])
    head = [f"{name}: {what}" for name in sets for what in ("WER %", "CER %", "change")]
    lines = [f"# Ablation: {result['name']}", ""]
    lines += [f"Made by `scripts/ablate.py` from `{path.stem}.json`. {result['steps']} steps each, seeds"]
    lines[-1] += f" {', '.join(map(str, result['seeds']))}; 95 % intervals over utterances and seeds, in brackets."
    lines += [f"The change is that of {result['rate'].upper()} against `{result['baseline']}`, relative."]
    lines += ["", f"| variant | {' | '.join(head)} | s | time |", "|---" * (len(head) + 3) + "|"]
    seconds = {name: float(np.median(row["seconds"])) for name, row in result["variants"].items()}
    for name, row in result["variants"].items():
        cells = [name]
        for set_name in sets:
            figures = row["sets"][set_name]
            cells += [f"{100 * figures[rate]:.1f} {_interval(figures[f'{rate}_interval'])}" for rate in COUNTS]
            change = figures[f"{result['rate']}_change"]
            interval = _interval(figures[f"{result['rate']}_change_interval"])
            cells.append("" if name == result["baseline"] else f"{100 * change:+.0f} % {interval}")
        cells += [f"{seconds[name]:.0f}", f"x {seconds[name] / seconds[result['baseline']]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "`s`: median seconds of the processor for a training, evaluation left out; `time`: against the first variant.",
    ]
    lines += [f"{result['machine']}, one thread a training, {result['date']}."]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _interval(ends: list[float]) -> str:
    return f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def plot(result: dict[str, Any], path: Path) -> None:
    """A row a variant: mean and interval on each set, a dot a seed."""
    from matplotlib.figure import Figure

    names, sets, rate = list(result["variants"]), list(result["sets"]), result["rate"]
    figure = Figure(figsize=(3.2 + 3.2 * len(sets), 1.0 + 0.3 * len(names)), layout="constrained")
    for axes, set_name in zip(figure.subplots(1, len(sets), sharey=True, squeeze=False)[0], sets, strict=True):
        for place, name in enumerate(names):
            figures = result["variants"][name]["sets"][set_name]
            low, high = (100 * end for end in figures[f"{rate}_interval"])
            axes.plot([low, high], [place, place], color="tab:blue", linewidth=2)
            axes.plot([100 * value for value in figures[f"{rate}_of_seeds"]], [place] * len(result["seeds"]), "k.")
            axes.plot(100 * figures[rate], place, "o", color="tab:blue")
        axes.axvline(100 * result["variants"][names[0]]["sets"][set_name][rate], color="0.7", zorder=0)
        axes.set(title=set_name, xlabel=f"{rate.upper()}, %")
        axes.set_yticks(range(len(names)), names)
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def read_plan(path: Path) -> dict[str, Any]:
    """The file of variants.

    Raises:
        ValueError: a key that is not known, or one that is missing.
    """
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown, missing = set(plan) - KEYS, {"steps", "rate", "sets", "variants"} - set(plan)
    if unknown or missing:
        raise ValueError(f"{path}: its keys must be {', '.join(sorted(KEYS))}, got {', '.join(sorted(plan))}.")
    if plan["rate"] not in COUNTS:
        raise ValueError(f"{path}: `rate` must be wer or cer, got {plan['rate']!r}.")
    return plan


def read_runs(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What was trained so far, by variant and seed."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    runs = [json.loads(line) for line in lines]
    return {(run["variant"], run["seed"]): run for run in runs}


def check_runs(done: dict[tuple[str, int], dict[str, Any]], jobs: Iterable[Job], path: Path) -> None:
    """Raises ValueError where something was trained that the plan does not describe any more."""
    for job in jobs:
        run = done.get((job.variant, job.seed))
        if run is not None and run["digest"] != job.digest:
            raise ValueError(f"{path}: {job.variant}, seed {job.seed}, was trained by another plan; delete its line.")


def finished_runs(
    runs: dict[tuple[str, int], dict[str, Any]], variants: Iterable[str], seeds: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """Results of the variants of which every seed is there.

    Raises:
        ValueError: trainings of different lengths.
    """
    whole = [name for name in variants if all((name, seed) in runs for seed in seeds)]
    finished = {name: [runs[name, seed] for seed in seeds] for name in whole}
    steps = {run["steps"] for of_seeds in finished.values() for run in of_seeds}
    if len(steps) > 1:
        raise ValueError(f"every training must have taken as many steps, got {sorted(steps)}.")
    return finished


def train_all(jobs: Sequence[Job], num_processes: int) -> Iterator[dict[str, Any]]:
    """Results as they come. However this ends, no training goes on after it, which would meet itself when begun again.

    Raises:
        SystemExit: a variant that is refused, or SIGTERM.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    pool = ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(run_job, job) for job in jobs]):
            yield future.result()
    except ValueError as error:
        raise SystemExit(str(error)) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()


def main() -> None:
    """Trains what is missing, then writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="a recipe; later ones overlay earlier ones")
    parser.add_argument("--variants", type=Path, required=True, help="file of variants")
    parser.add_argument("--seeds", type=int, default=5, help="how many (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on one thread (%(default)s)")
    parser.add_argument("--only", nargs="+", help="train these variants")
    parser.add_argument("--runs", type=Path, help="run folders (runs/ablation/NAME)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="(%(default)s)")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs" / "callbacks", help="(%(default)s)")
    arguments = parser.parse_args()
    name, plan = arguments.variants.stem, read_plan(arguments.variants)
    runs = (arguments.runs or Path("runs/ablation") / name).resolve()
    if "label_minutes" in plan:
        from label_efficiency_read import decode_train_sets, write_labels

        labels = write_labels(runs / "labels", plan["label_minutes"], decode_train_sets(runs / "decoded"))
        os.environ["SPEECHKIT_LABELS"] = str(labels.parent)
    seeds = list(range(1, arguments.seeds + 1))
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"ablation_{name}.json"
    runs_path = path.with_name(f"ablation_{name}_runs.jsonl")
    jobs = plan_jobs(plan, arguments.config, runs, seeds)
    done = read_runs(runs_path)
    check_runs(done, jobs, runs_path)
    for variant in arguments.only or ():
        if variant not in plan["variants"]:
            raise SystemExit(f"--only must name variants ({', '.join(plan['variants'])}), got {variant}")
    chosen = [job for job in jobs if not arguments.only or job.variant in arguments.only]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes below
    missing = [job for job in chosen if (job.variant, job.seed) not in done]
    for run in train_all(missing, arguments.jobs):
        with runs_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run, separators=(",", ":")) + "\n")
        print(f"{run['variant']}, seed {run['seed']}: {run['seconds']:.0f} s", flush=True)
    finished = finished_runs(read_runs(runs_path), plan["variants"], seeds)
    baseline = next(iter(plan["variants"]))
    if baseline not in finished:
        raise SystemExit(f"no table: the variant {baseline}, which the others are held against, is not whole")
    summaries = {set_name: summarise(finished, set_name) for set_name in plan["sets"]}
    result = {
        "name": name,
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {package: importlib.metadata.version(package) for package in ("torch", "lightning", "numpy")},
        "recipes": arguments.config,
        "steps": next(iter(finished.values()))[0]["steps"],
        "seeds": seeds,
        "rate": plan["rate"],
        "baseline": baseline,
        "base": plan.get("base"),
        "sets": plan["sets"],
        "variants": {
            variant: {
                "overlays": overlays_of(plan["variants"], variant),
                "seconds": [run["seconds"] for run in of_seeds],
                "sets": {set_name: summary[variant] for set_name, summary in summaries.items()},
            }
            for variant, of_seeds in finished.items()
        },
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_table(result, path.with_suffix(".md"))
    plot(result, arguments.plots / f"ablation-{name}.png")
    print(path.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
