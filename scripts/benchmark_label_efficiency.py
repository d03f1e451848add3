"""What pretraining is worth where few recordings have text: read sentences, and strings of digits.

`python scripts/benchmark_label_efficiency.py` pretrains with every objective on real speech without text, fine-tunes on
minutes of it with and without, and writes benchmarks/results/label_efficiency.{json,md} and
docs/label-efficiency.png. Read sentences are recognised as phonemes, and decoded with trigrams of English at large
(--text: what scripts/general_text.py wrote), whose weight each run chooses on the development sets. Trainings of one
thread run side by side (`--jobs`). What is in the run folder already is not done again, and what was interrupted goes
on; delete a run's folder to repeat it.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
import yaml
from benchmark_recipes import join_manifests
from digit_strings import STRANGERS, make_strings

from speechkit.audio import load_audio

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.setdefault("SPEECHKIT_DATA", str(ROOT.parent / "shared" / "data")))
CORPORA = ("libri-unlabelled", "arctic", "speechocean")
LABELLED = ("arctic", "speechocean")
OBJECTIVES = {  # recipe of pretraining -> the recipe whose encoder, without a start, it is held against
    "cpc": "cpc",
    "wav2vec": "wav2vec",
    "vq_wav2vec": "vq_wav2vec",
    "wav2vec2_tiny": "wav2vec2_tiny",
}
Row = dict[str, Any]


def speechkit(log: Path, *arguments: str) -> None:
    """Runs the command line on one thread; what it prints goes to the log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    print("$ speechkit", *arguments, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "speechkit", *arguments]
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if status:
        raise SystemExit(f"speechkit {arguments[0]} failed with status {status}: see {log}")


def train(out: Path, command: str, *options: str) -> Path:
    """Trains, or goes on where an interrupted run stopped; returns the bundle. Seconds add up in seconds.json."""
    if not (out / "bundle" / "config.yaml").exists():
        resume = ["--ckpt", "last"] if (out / "checkpoints" / "last.ckpt").exists() else []
        start = time.perf_counter()
        try:
            speechkit(out / "log.txt", command, *options, "--out", str(out), *resume, "data.num_workers=0")
        finally:
            timing = out / "seconds.json"
            before = json.loads(timing.read_text()) if timing.exists() else []
            timing.write_text(json.dumps([*before, round(time.perf_counter() - start)]))
    return out / "bundle"


def score(bundle: Path, name: str, manifest: Path) -> dict[str, Any]:
    """Error rates and counts, greedily or as the bundle decodes."""
    out = bundle.parent / f"{name}.json"
    if not out.exists():
        speechkit(bundle.parent / "log.txt", "evaluate", str(bundle), str(manifest), "--json", str(out))
    scores = json.loads(out.read_text(encoding="utf-8"))
    errors = scores["substitutions"] + scores["deletions"] + scores["insertions"]
    kept = ("wer", "cer", "words", "characters", "character_errors")
    return {**{key: scores[key] for key in kept}, "word_errors": errors}


def score_corpora(bundle: Path, split: str, manifest: Path) -> dict[str, dict[str, float]]:
    """Error rates on a split of the labelled corpora, of all together and of each by its speakers."""
    everything = score(bundle, split, manifest)
    rates = {split: {key: everything[key] for key in ("wer", "cer")}}
    rows = json.loads((bundle.parent / f"{split}.json").read_text(encoding="utf-8"))["per_utterance"]
    for corpus in LABELLED:
        lines = (DATA / corpus / f"{split}.jsonl").read_text("utf-8").splitlines()
        speakers = {json.loads(line)["speaker"] for line in lines}
        own = [row for row in rows if row["speaker"] in speakers]
        rates[f"{corpus}/{split}"] = {
            "wer": sum(row["word_errors"] for row in own) / sum(len(row["reference"].split()) for row in own),
            "cer": sum(row["character_errors"] for row in own) / sum(len(row["reference"]) for row in own),
        }
    return rates


def side_by_side(jobs: int, calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Results in order; at most so many at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def decode_audio(out: Path) -> dict[str, Path]:
    """Decodes the compressed recordings once, since every epoch of every training would: corpus -> train manifest."""
    manifests = {}
    for corpus in CORPORA:
        manifests[corpus] = out / corpus / "train.jsonl"
        if manifests[corpus].exists():
            continue
        (out / corpus).mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in (DATA / corpus / "train.jsonl").read_text("utf-8").splitlines()]
        for row in rows:
            samples = load_audio(DATA / corpus / row["audio_filepath"], sample_rate_hz=16000)
            row["audio_filepath"] = row["audio_filepath"].replace("/", "-") + ".wav"
            soundfile.write(out / corpus / row["audio_filepath"], samples, 16000, subtype="PCM_16")
        manifests[corpus].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifests


def write_labels(out: Path, minutes: int, manifests: Mapping[str, Path]) -> Path:
    """A manifest of so many minutes, as much of each corpus; a longer one holds the shorter ones."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "train.jsonl").open("w", encoding="utf-8") as file:
        for corpus in LABELLED:
            rows = [json.loads(line) for line in manifests[corpus].read_text("utf-8").splitlines()]
            rows.sort(key=lambda row: hashlib.sha256(row["audio_filepath"].encode()).digest())
            seconds = 0.0
            for row in rows:
                if seconds >= 60 * minutes / len(LABELLED):
                    break
                seconds += row["duration"]
                row["audio_filepath"] = str(manifests[corpus].parent / row["audio_filepath"])
                file.write(json.dumps(row) + "\n")
    return out / "train.jsonl"


def write_encoder(out: Path, recipe: str) -> Path:
    """The front end and encoder of a recipe of pretraining, as an overlay for fine-tuning."""
    model = yaml.safe_load((ROOT / "configs" / "pretrain" / f"{recipe}.yaml").read_text("utf-8"))["model"]
    path = out / f"encoder-{recipe}.yaml"
    path.write_text(yaml.safe_dump({"model": {key: model[key] for key in ("front_end", "encoder")}}), encoding="utf-8")
    return path


def measure_read(
    runs: Path, jobs: int, seeds: Sequence[int], epochs: int, precision: str, objectives: Sequence[str], text: Path
) -> dict[str, Any]:
    """Every objective with 10 minutes of labels, the best one with 30 and with all."""
    runs.mkdir(parents=True, exist_ok=True)
    splits = {split: runs / f"{split}.jsonl" for split in ("dev", "test")}
    for split, manifest in splits.items():
        join_manifests([f"{corpus}/{split}" for corpus in LABELLED], manifest)
    english = runs / "english.arpa.gz"
    if not english.exists():
        texts = sorted(map(str, text.glob("*.txt")))
        if not texts:
            raise SystemExit(f"--text must hold what scripts/general_text.py wrote, got {text}.")
        speechkit(runs / "english.txt", "lm", "train", *texts, "--prune", "0", "0", "1", "-o", str(english))
    manifests = decode_audio(runs / "decoded")
    everything = json.dumps(list(map(str, manifests.values())))

    def pretrain(objective: str) -> Path:
        options = [f"data.train={everything}", f"trainer.max_epochs={epochs}", f"trainer.precision={precision}"]
        return train(runs / f"pretrained-{objective}", "pretrain", "--config", objective, *options)

    def finetune(labels: str, objective: str, seed: int, *, pretrained: bool) -> Row:
        recipe = objective if pretrained else OBJECTIVES[objective]
        start = objective if pretrained else "scratch"
        out = runs / f"{labels}-{recipe}-{'pretrained' if pretrained else 'scratch'}-{seed}"
        options = [f"model.encoder_from={runs / f'pretrained-{objective}' / 'bundle'}"] if pretrained else []
        if labels == "all":
            train_sets = [str(manifests[corpus]) for corpus in LABELLED]
            options += ["trainer.max_epochs=12", "data.batch_seconds=36"]  # see the whole as often as is affordable
        else:
            train_sets = [str(write_labels(runs / f"labels-{labels}", int(labels), manifests))]
        overlay = write_encoder(runs, recipe)
        configs = [part for name in ("read_phonemes", "few_labels", str(overlay)) for part in ("--config", name)]
        options += [f"seed_everything={seed}", f"data.train={json.dumps(train_sets)}", f"trainer.precision={precision}"]
        bundle = train(out, "finetune", *configs, *options)
        if not (bundle / "lm.arpa").exists():
            tuning = ["lm", "tune", str(bundle), str(splits["dev"]), "--lm", str(english), "--beam", "20"]
            speechkit(out / "log.txt", *tuning)
        row: Row = {"labels": labels, "encoder": recipe, "start": start, "seed": seed}
        for split, manifest in splits.items():
            row |= score_corpora(bundle, split, manifest)
        print(json.dumps({key: row[key] for key in ("labels", "encoder", "start", "seed", "test")}), flush=True)
        return row

    side_by_side(jobs, [partial(pretrain, name) for name in objectives])
    few = [
        partial(finetune, "10", name, seed, pretrained=pretrained)
        for seed in seeds
        for name in objectives
        for pretrained in (False, True)
    ]
    rows = side_by_side(jobs, few)
    best = min(objectives, key=lambda name: mean(rows, "10", name, name, "dev", "cer"))
    more = [
        partial(finetune, labels, best, seeds[0], pretrained=pretrained)
        for labels in ("30", "all")
        for pretrained in (False, True)
    ]
    rows += side_by_side(jobs, more)
    timings = {name: runs / f"pretrained-{name}" / "seconds.json" for name in objectives}
    seconds = {name: sum(json.loads(path.read_text())) for name, path in timings.items() if path.exists()}
    pretraining = {"epochs": epochs, "precision": precision, "seconds": seconds}
    return {"best_on_dev": best, "pretraining": pretraining, "runs": rows}


def mean(rows: Sequence[Row], labels: str, encoder: str, start: str, test: str, rate: str) -> float:
    """Over seeds."""
    return statistics.mean(values(rows, labels, encoder, start, test, rate))


def values(rows: Sequence[Row], labels: str, encoder: str, start: str, test: str, rate: str) -> list[float]:
    """Of each seed."""
    chosen = {"labels": labels, "encoder": encoder, "start": start}
    return [row[test][rate] for row in rows if all(row[key] == value for key, value in chosen.items())]


def measure_strings(runs: Path, jobs: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Digits joined to strings, labels of four speakers: with and without pretraining, known speakers and strangers."""
    strings = runs / "strings"
    make_strings(strings, DATA / "digits")
    os.environ["SPEECHKIT_STRINGS"] = str(strings)
    manifests = [str(DATA / name / "train.jsonl") for name in CORPORA] + [str(strings / "unlabelled.jsonl")]
    options = ["--config", "cpc_8khz", f"data.train={json.dumps(manifests)}"]
    encoder = train(runs / "pretrained-8khz", "pretrain", *options)

    def finetune(seed: int, *, pretrained: bool) -> Row:
        start = "pretrained" if pretrained else "scratch"
        options = [f"model.encoder_from={encoder}"] if pretrained else []
        out = runs / f"strings-{start}-{seed}"
        bundle = train(out, "finetune", "--config", "digit_strings", f"seed_everything={seed}", *options)
        tests = {test: score(bundle, test, strings / f"{test}.jsonl") for test in ("dev", "test", "unseen")}
        row = {"start": start, "seed": seed, **tests}
        print(json.dumps(row), flush=True)
        return row

    calls = [partial(finetune, seed, pretrained=pretrained) for seed in seeds for pretrained in (False, True)]
    rows = side_by_side(jobs, calls)
    reductions = {}
    for test in ("test", "unseen"):
        of = {
            start: statistics.mean(row[test]["wer"] for row in rows if row["start"] == start)
            for start in ("scratch", "pretrained")
        }
        reductions[test] = 1.0 - of["pretrained"] / of["scratch"]
    known_and_strangers = strings / "known-and-strangers.jsonl"
    known_and_strangers.write_text(
        "".join((strings / f"{test}.jsonl").read_text(encoding="utf-8") for test in ("test", "unseen")),
        encoding="utf-8",
    )
    aligner = runs / f"strings-pretrained-{seeds[0]}" / "bundle"
    kept = {what: probe(encoder, known_and_strangers, what, aligner) for what in ("features", "latents", "context")}
    return {
        "strangers": list(STRANGERS),
        "runs": rows,
        "relative_reduction_of_wer": reductions,
        "what_the_encoder_keeps": kept,
    }


def probe(bundle: Path, manifest: Path, what: str, aligner: Path) -> dict[str, float]:
    """What frames tell of the speaker and of the words, by linear probes and ABX."""
    out = bundle.parent / f"probe-{what}.json"
    if not out.exists():
        options = ["--what", what, "--aligner", str(aligner), "--json", str(out)]
        speechkit(bundle.parent / "log.txt", "probe", str(bundle), str(manifest), *options)
    figures = json.loads(out.read_text(encoding="utf-8"))
    return {
        "speaker": figures["speaker"]["accuracy"],
        "speaker_chance": figures["speaker"]["chance"],
        "word": figures["label"]["accuracy"],
        "abx_within": figures["abx_within"]["error"],
        "abx_across": figures["abx_across"]["error"],
    }


def write_table(result: dict[str, Any], folder: Path) -> None:
    """label_efficiency.md from the JSON."""
    lines = [
        "# What pretraining is worth where few recordings have text",
        "",
        "Made by `scripts/benchmark_label_efficiency.py` from `label_efficiency.json`.",
    ]
    if "read" in result:
        lines += ["", "## Read sentences (`arctic` and `speechocean`, both test sets together)", ""]
        lines += ["Phonemes, decoded with trigrams of English at large, whose weight each run chose on `dev`.", ""]
        lines += [
            "| labels | encoder | start | seeds | CER % | WER % | CER arctic | CER speechocean | CER against scratch |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        rows = result["read"]["runs"]
        for labels, encoder, start in dict.fromkeys((row["labels"], row["encoder"], row["start"]) for row in rows):
            of = {
                (test, rate): values(rows, labels, encoder, start, test, rate)
                for test, rate in (
                    ("test", "cer"),
                    ("test", "wer"),
                    ("arctic/test", "cer"),
                    ("speechocean/test", "cer"),
                )
            }
            change = ""
            if start != "scratch":
                scratch = mean(rows, labels, OBJECTIVES[start], "scratch", "test", "cer")
                change = f"{100 * (statistics.mean(of['test', 'cer']) / scratch - 1):+.0f} %"
            cells = [spread(numbers) for numbers in of.values()]
            minutes = labels if labels == "all" else f"{labels} min"
            count = len(of["test", "cer"])
            lines.append(f"| {' | '.join([minutes, encoder, start, str(count), *cells, change])} |")
        lines += ["", f"Best at 10 minutes on the development sets: {result['read']['best_on_dev']}."]
    if "digit strings" in result:
        strings = result["digit strings"]
        lines += ["", "## Strings of digits, 10 minutes of labels of four speakers, greedily", ""]
        lines += ["| start | seeds | WER % same speakers | WER % strangers |", "|---|---|---|---|"]
        for start in ("scratch", "pretrained"):
            rows = [row for row in strings["runs"] if row["start"] == start]
            cells = [spread([row[test]["wer"] for row in rows]) for test in ("test", "unseen")]
            lines.append(f"| {start} | {len(rows)} | {' | '.join(cells)} |")
        fewer = [f"{100 * strings['relative_reduction_of_wer'][test]:.0f} %" for test in ("test", "unseen")]
        lines.append(f"| fewer errors | | {' | '.join(fewer)} |")
        lines += [
            "",
            "What frames tell of six speakers, two of them strangers (linear probes; ABX error, chance 50 %):",
            "",
        ]
        lines += ["| frames | speaker % right | word % right | ABX within a speaker % | ABX across speakers % |"]
        lines += ["|---|---|---|---|---|"]
        for what, kept in strings["what_the_encoder_keeps"].items():
            cells = [f"{100 * kept[key]:.1f}" for key in ("speaker", "word", "abx_within", "abx_across")]
            lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{result['machine']}, one thread a training, {result['date']}. `+-`: from least to largest seed, halved.",
    ]
    (folder / "label_efficiency.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def spread(numbers: Sequence[float]) -> str:
    """Mean, and half of the range, in percent."""
    text = f"{100 * statistics.mean(numbers):.1f}"
    return text if len(numbers) == 1 else f"{text} +- {50 * (max(numbers) - min(numbers)):.1f}"


def plot(result: dict[str, Any], path: Path) -> None:
    """CER on the read sentences by labels and start, a dot a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["read"]["runs"]
    bars = list(dict.fromkeys((row["labels"], row["encoder"], row["start"]) for row in rows))
    figure, axes = plt.subplots(figsize=(6.8, 0.32 * len(bars) + 1.0), layout="constrained")
    for place, (labels, encoder, start) in enumerate(bars):
        numbers = [100 * value for value in values(rows, labels, encoder, start, "test", "cer")]
        color = "0.75" if start == "scratch" else "tab:blue"
        axes.barh(place, statistics.mean(numbers), color=color, height=0.7)
        axes.plot(numbers, [place] * len(numbers), "k.", markersize=4)
    names = [f"{labels}{'' if labels == 'all' else ' min'}, {encoder}, {start}" for labels, encoder, start in bars]
    axes.set_yticks(range(len(bars)), names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("character error rate on read sentences, % (bar: mean; dot: a seed; grey: without pretraining)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["read", "strings", []], metavar="PART", help="read, strings")
    parser.add_argument("--runs", type=Path, default=Path("runs/label-efficiency"), help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=16, help="of pretraining for read sentences (%(default)s)")
    parser.add_argument("--text", type=Path, default=Path("runs/general-text"), help="for read (%(default)s)")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help="for read (all)")
    parser.add_argument("--precision", default="32-true", help="of read sentences; bf16-mixed where the CPU has it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time (%(default)s)")
    arguments = parser.parse_args()
    runs, path = arguments.runs.resolve(), RESULTS / "label_efficiency.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result |= {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {package: importlib.metadata.version(package) for package in ("torch", "lightning")},
    }
    for part in arguments.parts or ("read", "strings"):
        if part == "read":
            result["read"] = measure_read(
                runs / "read",
                arguments.jobs,
                arguments.seeds,
                arguments.epochs,
                arguments.precision,
                arguments.objectives,
                arguments.text,
            )
        else:
            result["digit strings"] = measure_strings(runs, arguments.jobs, arguments.seeds)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        write_table(result, RESULTS)
    if "read" in result:
        plot(result, ROOT / "docs" / "label-efficiency.png")


if __name__ == "__main__":
    main()
