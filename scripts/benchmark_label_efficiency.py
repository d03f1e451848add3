"""What pretraining is worth where few recordings have text: read sentences, and strings of digits.

`python scripts/benchmark_label_efficiency.py` pretrains with every objective on real speech without text, fine-tunes on
minutes of it with and without, and writes benchmarks/results/label_efficiency.{json,md} and
docs/label-efficiency.png. Read sentences are recognised as phonemes, and decoded with trigrams of English at large
(--text: what scripts/general_text.py wrote), whose weight each run chooses on the development sets. Trainings of one
thread run side by side (`--jobs`). A fine-tuning whose row is in the JSON is not done again, nor is what is in the run
folder, and what was interrupted goes on; delete both to repeat it.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
import yaml
from benchmark_recipes import join_manifests
from digit_strings import STRANGERS, make_strings
from label_efficiency_report import Row, mean, plot, write_table

from speechkit.audio import load_audio

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.setdefault("SPEECHKIT_DATA", str(ROOT.parent / "shared" / "data")))
CORPORA = ("libri-unlabelled", "arctic", "speechocean")
LABELLED = ("arctic", "speechocean")
LABELS = ("10", "30", "all")  # minutes
ENVIRONMENT = ("command", "date", "machine", "versions")
OBJECTIVES = {"cpc": 16, "wav2vec": 10, "vq_wav2vec": 10, "wav2vec2_tiny": 10}  # recipe -> epochs in about an hour


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


def label_errors(out: Path) -> float:
    """Share of wrong labels on the development sets, greedily, of the checkpoint that became the bundle."""
    found = []
    for path in (out / "logs").glob("start-*/metrics.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["val_score"]]
        found += [(float(row["val_score"]), float(row["val_ler"])) for row in rows]
    return min(found)[1]


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
    runs: Path,
    jobs: int,
    seeds: Sequence[int],
    precision: str,
    objectives: Sequence[str],
    labels: Sequence[str],
    text: Path,
    before: Mapping[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """Every objective with 10 minutes of labels, the best one with 30 and with all; saved row by row."""
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
    result = {"pretraining": {}, "runs": [], **before}
    rows: list[Row] = result["runs"]
    saving = threading.Lock()

    def pretrain(objective: str) -> None:
        out = runs / f"pretrained-{objective}"
        epochs = OBJECTIVES[objective]
        options = [f"data.train={everything}", f"trainer.max_epochs={epochs}", f"trainer.precision={precision}"]
        train(out, "pretrain", "--config", objective, *options)
        with saving:
            seconds = sum(json.loads((out / "seconds.json").read_text()))
            result["pretraining"][objective] = {"epochs": epochs, "precision": precision, "seconds": seconds}
            save(result)

    def finetune(labels: str, objective: str, start: str, seed: int, pretrained: Future[None] | None = None) -> None:
        if pretrained is not None:
            pretrained.result()
        out = runs / f"{labels}-{objective}-{start}-{seed}"
        options = []
        if start == "pretrained":
            options += [f"model.encoder_from={runs / f'pretrained-{objective}' / 'bundle'}"]
        if labels == "all":
            train_sets = [str(manifests[corpus]) for corpus in LABELLED]
            options += ["trainer.max_epochs=12", "data.batch_seconds=36"]  # see the whole as often as is affordable
        else:
            train_sets = [str(write_labels(runs / f"labels-{labels}", int(labels), manifests))]
        overlay = write_encoder(runs, objective)
        configs = [part for name in ("read_phonemes", "few_labels", str(overlay)) for part in ("--config", name)]
        options += [f"seed_everything={seed}", f"data.train={json.dumps(train_sets)}", f"trainer.precision={precision}"]
        bundle = train(out, "finetune", *configs, *options)
        if not (bundle / "lm.arpa").exists():
            tuning = [
                "lm",
                "tune",
                str(bundle),
                str(splits["dev"]),
                "--lm",
                str(english),
                "--beam",
                "20",
                "--rate",
                "cer",
            ]
            speechkit(out / "log.txt", *tuning)
        row: Row = {"labels": labels, "encoder": objective, "start": start, "seed": seed}
        row["dev_label_errors"] = label_errors(out)
        for split, manifest in splits.items():
            row |= score_corpora(bundle, split, manifest)
        print(json.dumps({key: row[key] for key in ("labels", "encoder", "start", "seed", "test")}), flush=True)
        with saving:
            rows.append(row)
            rows.sort(key=place_in_table)
            save(result)

    def fill(labels: str, objectives: Iterable[str], seeds: Sequence[int]) -> None:
        """Trains what has no row yet, from scratch first: that need not wait for pretraining."""
        done = {(row["labels"], row["encoder"], row["start"], row["seed"]) for row in rows}
        wanted = [(start, name, seed) for start in ("scratch", "pretrained") for name in objectives for seed in seeds]
        missing = [(start, name, seed) for start, name, seed in wanted if (labels, name, start, seed) not in done]
        with ThreadPoolExecutor(jobs) as pool:
            needed = dict.fromkeys(name for start, name, _ in missing if start == "pretrained")
            pretrained = {name: pool.submit(pretrain, name) for name in needed}
            waits = [pretrained[name] if start == "pretrained" else None for start, name, _ in missing]
            for future in [
                pool.submit(finetune, labels, name, start, seed, wait)
                for (start, name, seed), wait in zip(missing, waits, strict=True)
            ]:
                future.result()

    if "10" in labels:
        fill("10", objectives, seeds)
    tried = {row["encoder"] for row in rows if (row["labels"], row["start"]) == ("10", "pretrained")}
    if not tried:
        return
    best = min(tried, key=lambda name: mean(rows, "10", name, "pretrained", "dev", "cer"))
    result["best_on_dev"] = best
    save(result)
    for count in labels:
        if count != "10":
            fill(count, [best], seeds[:1])


def place_in_table(row: Row) -> tuple[int, str, bool, int]:
    """By labels and encoder; from scratch first."""
    return LABELS.index(row["labels"]), row["encoder"], row["start"] == "pretrained", row["seed"]


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


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["read", "strings", []], metavar="PART", help="read, strings")
    parser.add_argument("--runs", type=Path, default=Path("runs/label-efficiency"), help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(%(default)s)")
    parser.add_argument("--text", type=Path, default=Path("runs/general-text"), help="for read (%(default)s)")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help="for read (all)")
    parser.add_argument("--labels", nargs="+", choices=LABELS, default=LABELS, help="minutes, for read (all)")
    parser.add_argument("--precision", default="32-true", help="of read sentences; bf16-mixed where the CPU has it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time (%(default)s)")
    arguments = parser.parse_args()
    runs, path = arguments.runs.resolve(), RESULTS / "label_efficiency.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save(part: str, measured: dict[str, Any]) -> None:
        result[part] = {
            "command": " ".join(["python", *sys.argv]),
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {package: importlib.metadata.version(package) for package in ("torch", "lightning")},
            **{key: value for key, value in measured.items() if key not in ENVIRONMENT},
        }
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        write_table(result, RESULTS)
        if "read" in result:
            plot(result, ROOT / "docs" / "label-efficiency.png")

    if "read" in (arguments.parts or ("read", "strings")):
        measure_read(
            runs / "read",
            arguments.jobs,
            arguments.seeds,
            arguments.precision,
            arguments.objectives,
            arguments.labels,
            arguments.text,
            result.get("read", {}),
            partial(save, "read"),
        )
    if "strings" in (arguments.parts or ("read", "strings")):
        save("digit strings", measure_strings(runs, arguments.jobs, arguments.seeds))


if __name__ == "__main__":
    main()
