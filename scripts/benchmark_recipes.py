"""Trains the shipped recipes and writes what they reach into benchmarks/results/, one JSON file a recipe.

`python scripts/benchmark_recipes.py yesno digits` runs two of them; a recipe whose run folder is there goes on from its
last checkpoint, and one whose result is there is left alone unless --again is given. The table of all results is
benchmarks/results/README.md.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

import demo

os.environ.setdefault("SPEECHKIT_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
PUBLISHED = {
    "yesno/test": "0.42 % (icefall, egs/yesno)",
    "digits/test": "about 3 % (sound-mnist)",
}
UNSEEN = ["theo", "yweweler"]


def speechkit(*arguments: str) -> None:
    """Runs the command line."""
    subprocess.run([sys.executable, "-m", "speechkit", *arguments], check=True)


def train(runs: Path, name: str, recipes: Sequence[str], *overrides: str) -> tuple[Path, float]:
    """Fine-tunes by a recipe, or several that overlay each other, or goes on where an interrupted run stopped.

    Returns bundle and seconds of the whole process.
    """
    out = runs / name
    timing = out / "seconds.json"  # of every start, so that an interrupted run is not reported as a fast one
    before = json.loads(timing.read_text()) if timing.exists() else []
    if not (out / "bundle" / "config.yaml").exists():
        resume = ["--ckpt", "last"] if (out / "checkpoints" / "last.ckpt").exists() else []
        start = time.perf_counter()
        try:
            configs = [argument for recipe in recipes for argument in ("--config", recipe)]
            speechkit("finetune", *configs, "--out", str(out), *resume, *overrides)
        finally:
            out.mkdir(parents=True, exist_ok=True)
            before.append(time.perf_counter() - start)
            timing.write_text(json.dumps(before))
    return out / "bundle", sum(before)


def score(bundle: Path, manifest: str) -> dict[str, Any]:
    """Error rates on a manifest below $SPEECHKIT_DATA."""
    out = bundle.parent / f"{manifest.replace('/', '-')}.json"
    speechkit("evaluate", str(bundle), f"{os.environ['SPEECHKIT_DATA']}/{manifest}.jsonl", "--json", str(out))
    return read_scores(out)


def read_scores(path: Path) -> dict[str, Any]:
    """What `evaluate --json` wrote, without its tables."""
    result = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in result.items() if not isinstance(value, list) or key.endswith("_interval")}


def bench_yesno(runs: Path) -> dict[str, Any]:
    """One speaker, 240 test words."""
    bundle, seconds = train(runs, "yesno", ["yesno"])
    return {"process_seconds": seconds, "yesno/test": score(bundle, "yesno/test")}


def bench_digits(runs: Path) -> dict[str, Any]:
    """The official split, and two speakers that training did not hear."""
    bundle, seconds = train(runs, "digits", ["digits"])
    unseen_bundle, _ = train(
        runs, "digits-unseen", ["digits"], f"data.exclude_speakers={json.dumps(UNSEEN)}", "data.dev=[]"
    )
    manifest = runs / "digits-unseen" / "unseen.jsonl"
    with manifest.open("w", encoding="utf-8") as file:
        folder = Path(os.environ["SPEECHKIT_DATA"]) / "digits"
        for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["speaker"] in UNSEEN:
                file.write(
                    json.dumps({**row, "audio_filepath": str((folder / row["audio_filepath"]).resolve())}) + "\n"
                )
    out = runs / "digits-unseen" / "unseen.json"
    speechkit("evaluate", str(unseen_bundle), str(manifest), "--json", str(out))
    return {
        "process_seconds": seconds,
        "digits/test": score(bundle, "digits/test"),
        f"digits/test, {' and '.join(UNSEEN)} unseen": read_scores(out),
    }


def bench_read(
    runs: Path,
    text: Path,
    recipes: Sequence[str],
    *,
    start: str | None = None,
    speakers: Sequence[str] = ("arctic", "speechocean"),
) -> dict[str, Any]:
    """Read sentences: two seen speakers, six unseen ones; greedily, and with language models.

    Args:
        runs: run folders.
        text: what `scripts/general_text.py` wrote.
        recipes: that overlay each other; the run is called as the last of them.
        start: a run from whose bundle this one goes on.
        speakers: on whose development sets the language model is tuned; all are tested.
    """
    name = recipes[-1]
    overrides = [] if start is None else [f"model.start_from={runs / start / 'bundle'}"]
    bundle, seconds = train(runs, name, recipes, *overrides)
    results: dict[str, Any] = {"process_seconds": seconds}
    dev = runs / name / "dev.jsonl"
    join_manifests([f"{speaker}/dev" for speaker in speakers], dev)
    for kind, model in {"greedy": None, **read_language_models(runs, text, dev)}.items():
        scored = bundle
        if model is not None:
            scored = runs / name / kind.replace(" ", "-") / "bundle"
            shutil.copytree(bundle, scored, dirs_exist_ok=True)
            speechkit("lm", "tune", str(scored), str(dev), "--lm", str(model), "--beam", "200")
        for test in ("arctic/test", "speechocean/test"):
            results[f"{test}, {kind}"] = score(scored, test)
    return results


def join_manifests(names: Sequence[str], target: Path) -> None:
    """Several manifests below $SPEECHKIT_DATA -> one."""
    data = Path(os.environ["SPEECHKIT_DATA"])
    with target.open("w", encoding="utf-8") as file:
        for manifest in (data / f"{name}.jsonl" for name in names):
            for line in manifest.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                audio = (manifest.parent / row["audio_filepath"]).resolve()
                file.write(json.dumps({**row, "audio_filepath": str(audio)}) + "\n")


def read_language_models(runs: Path, text: Path, dev: Path) -> dict[str, Path]:
    """What the training sentences say, and that with English at large where there is any: name -> ARPA file."""
    data = Path(os.environ["SPEECHKIT_DATA"])
    own = runs / "read.arpa.gz"
    manifests = [str(data / name / "train.jsonl") for name in ("arctic", "speechocean")]
    speechkit("lm", "train", "--unique", *manifests, "-o", str(own))
    models = [own]
    for path in sorted(text.glob("*.txt")):
        models.append(runs / f"{path.stem}.arpa.gz")
        if not models[-1].exists():
            speechkit("lm", "train", str(path), "-o", str(models[-1]))
    found = {"trigrams of the training sentences": own}
    if len(models) > 1:
        found["trigrams with general English"] = dev.with_name("mixed.arpa.gz")
        speechkit("lm", "mix", *map(str, models), "--dev", str(dev), "-o", str(dev.with_name("mixed.arpa.gz")))
    return found


def bench_demo(runs: Path, seed_numbers: Sequence[int]) -> dict[str, Any]:
    """With and without pretraining, some seeds on one corpus."""
    corpus = runs / "demo" / "corpus"
    (runs / "demo").mkdir(parents=True, exist_ok=True)
    demo.synthesise(runs / "demo")
    os.environ["SPEECHKIT_DEMO"] = str(runs / "demo")
    seeds = []
    for seed in seed_numbers:
        out = runs / "demo" / f"seed{seed}"
        out.mkdir(exist_ok=True)
        if not (out / "corpus").exists():
            (out / "corpus").symlink_to(corpus.resolve())
        seeds.append({"seed": seed, **demo.train_and_score(out, seed)})
    scratch = statistics.mean(row["scratch_wer"] for row in seeds)
    pretrained = statistics.mean(row["pretrained_wer"] for row in seeds)
    facts = json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))
    return {
        "labelled_minutes": facts["splits"]["train"]["minutes"],
        "unlabelled_minutes": facts["splits"]["unlabelled"]["minutes"],
        "seeds": seeds,
        "mean_wer_scratch": scratch,
        "mean_wer_pretrained": pretrained,
        "relative_reduction": 1 - pretrained / scratch,
    }


BENCHES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "yesno": lambda options: bench_yesno(options.runs),
    "digits": lambda options: bench_digits(options.runs),
    "read": lambda options: bench_read(options.runs, options.text, ["read"]),
    "read_phonemes": lambda options: bench_read(options.runs, options.text, ["read_phonemes"]),
    "device": lambda options: bench_read(options.runs, options.text, ["read_phonemes", "device"]),
    "two_readers": lambda options: bench_read(
        options.runs, options.text, ["read_phonemes", "two_readers"], start="read_phonemes", speakers=["arctic"]
    ),
    "demo": lambda options: bench_demo(options.runs, options.seeds),
}


def describe_run(name: str) -> dict[str, Any]:
    """Where, when and with what a figure came about."""
    packages = ("torch", "lightning", "numpy", "soundfile")
    return {
        "recipe": name,
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.cuda.device_count()} GPUs",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """The lines of the table that one result makes."""
    rows = []
    for test, figures in result.items():
        if isinstance(figures, dict) and "wer" in figures:
            low, high = figures["wer_interval"]
            wer = f"{figures['wer']:.2%} ({low:.2%} to {high:.2%})"
            seconds = f"{result['process_seconds']:.0f}"
            rows.append([result["recipe"], test, wer, f"{figures['cer']:.2%}", PUBLISHED.get(test, ""), seconds])
    if "relative_reduction" in result:
        minutes = f"{result['labelled_minutes']:.1f} min with text"
        seeds = f"{len(result['seeds'])} seed(s), held-out voices"
        rows.append(["demo", f"labels only: {minutes}; {seeds}", f"{result['mean_wer_scratch']:.2%}", "", "", ""])
        minutes += f", {result['unlabelled_minutes']:.0f} without"
        rows.append(["demo", f"pretrained: {minutes}; {seeds}", f"{result['mean_wer_pretrained']:.2%}", "", "", ""])
    return rows


def write_table() -> None:
    """The table of all results, into benchmarks/results/README.md and between the marks of README.md."""
    paths = [RESULTS / f"{name}.json" for name in sorted(BENCHES)]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    lines = ["| recipe | test set | WER (95 % interval) | CER | published WER | s |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for result in results for row in table_rows(result)]
    machines = sorted({f"{result['machine']}, {result['threads']} threads, {result['date']}" for result in results})
    lines += ["", "`s`: seconds of the whole training process."]
    lines += [f"Measured on: {'; '.join(machines)}."]
    head = "# Results\n\nMade by `scripts/benchmark_recipes.py` from the JSON files beside it.\n\n"
    (RESULTS / "README.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    readme = RESULTS.parent.parent / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- results -->\n")
    after = rest.partition("<!-- end of results -->")[2]
    marked = "<!-- results -->\n" + "\n".join(lines) + "\n<!-- end of results -->"
    readme.write_text(before + marked + after, encoding="utf-8")


def plot_demo(result: dict[str, Any]) -> None:
    """docs/demo.png: word error rates on held-out speakers with and without pretraining, a dot a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 2.4), layout="constrained")
    names = {"scratch": "labels only", "pretrained": "pretrained, then labels"}
    for place, key in enumerate(names):
        values = [100 * row[f"{key}_wer"] for row in result["seeds"]]
        mean = statistics.mean(values)
        axes.barh(place, mean, color=("0.75", "tab:blue")[place], height=0.6)
        axes.plot(values, [place] * len(values), "k.", markersize=5)
        axes.annotate(f"{mean:.1f} %", (max(values), place), (6, -4), textcoords="offset points")
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.invert_yaxis()
    axes.set_xlabel("word error rate on held-out speakers, % (bar: mean; dot: a seed)")
    axes.set_title(
        f"{result['labelled_minutes']:.0f} minutes with text, {result['unlabelled_minutes']:.0f} minutes without",
        fontsize="medium",
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS.parent.parent / "docs" / "demo.png", dpi=150)


def main() -> None:
    """Runs the recipes that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", choices=[*BENCHES, []], metavar="RECIPE", help=", ".join(BENCHES))
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"), help="run folders (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the demo (%(default)s)")
    parser.add_argument(
        "--text",
        type=Path,
        default=Path("runs/general-text"),
        metavar="FOLDER",
        help="what scripts/general_text.py wrote, for the language models of read; none: without (%(default)s)",
    )
    parser.add_argument("--again", action="store_true", help="also where there is a result")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in arguments.recipes or BENCHES:
        target = RESULTS / f"{name}.json"
        if arguments.again or not target.exists():
            result = {**describe_run(name), **BENCHES[name](arguments)}
            target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            if name == "demo":
                plot_demo(result)
        write_table()


if __name__ == "__main__":
    main()
