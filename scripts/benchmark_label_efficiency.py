"""What pretraining is worth where few recordings have text: strings of digits, known speakers and strangers.

`python scripts/benchmark_label_efficiency.py` joins recordings of `digits` to strings, pretrains on real speech of
some 330 voices, fine-tunes with and without on ten minutes of four speakers, and writes
benchmarks/results/label_efficiency.json. What is there already is not done again; delete its folder to do so.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
DATA = Path(os.environ.setdefault("SPEECHKIT_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data")))
RATE = 8000
STRANGERS = ("theo", "yweweler")
CORPORA = ("libri-unlabelled", "arctic", "speechocean")


def read_digits(split: str) -> dict[str, list[dict[str, Any]]]:
    """Recordings of single digits by speaker."""
    by_speaker: dict[str, list[dict[str, Any]]] = {}
    for line in (DATA / "digits" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        row["samples"] = soundfile.read(DATA / "digits" / row["audio_filepath"], dtype="float32")[0]
        by_speaker.setdefault(row["speaker"], []).append(row)
    return by_speaker


def join(rows: Sequence[dict[str, Any]], generator: np.random.Generator) -> np.ndarray:
    """Recordings one after the other, 50 to 250 ms of near silence between."""
    pieces: list[np.ndarray] = []
    for row in rows:
        pause = generator.normal(0.0, 1e-4, int(generator.uniform(0.05, 0.25) * RATE))
        pieces += [pause.astype(np.float32), row["samples"]]
    return np.concatenate(pieces)


def write_strings(
    out: Path, name: str, split: str, speakers: Sequence[str], minutes: float, generator: np.random.Generator
) -> None:
    """A manifest and its audio: strings of three to seven digits, each of one speaker, the speakers in turn."""
    recordings, seconds = read_digits(split), 0.0
    lines: list[str] = []
    (out / name).mkdir(parents=True, exist_ok=True)
    while seconds < 60 * minutes:
        speaker = speakers[len(lines) % len(speakers)]
        places = generator.integers(len(recordings[speaker]), size=generator.integers(3, 8))
        rows = [recordings[speaker][place] for place in places]
        samples = join(rows, generator)
        path = out / name / f"{len(lines):04d}_{speaker}.flac"
        soundfile.write(path, samples.clip(-1.0, 1.0), RATE)
        row = {
            "audio_filepath": f"{name}/{path.name}",
            "duration": round(len(samples) / RATE, 4),
            "text": " ".join(row["text"] for row in rows),
            "speaker": speaker,
        }
        lines.append(json.dumps(row))
        seconds += len(samples) / RATE
    (out / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_strings(out: Path) -> None:
    """All parts, unless they are there. `unlabelled` is of the speakers with text; strangers are in `unseen` only."""
    if (out / "unseen.jsonl").exists():
        return
    generator = np.random.default_rng(0)
    known = [speaker for speaker in sorted(read_digits("train")) if speaker not in STRANGERS]
    for name, split, speakers, minutes in (
        ("train", "train", known, 10.0),
        ("unlabelled", "train", known, 20.0),
        ("dev", "dev", known, 3.0),
        ("test", "test", known, 8.0),
        ("unseen", "test", STRANGERS, 8.0),
    ):
        write_strings(out, name, split, speakers, minutes, generator)


def speechkit(*arguments: str) -> None:
    """Runs the command line."""
    print("$ speechkit", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "speechkit", *arguments], check=True)


def train(out: Path, *arguments: str) -> Path:
    """Trains, or goes on where an interrupted run stopped; returns the bundle."""
    if not (out / "bundle" / "config.yaml").exists():
        resume = ["--ckpt", "last"] if (out / "checkpoints" / "last.ckpt").exists() else []
        speechkit(*arguments, "--out", str(out), *resume)
    return out / "bundle"


def score(bundle: Path, manifest: Path) -> dict[str, float]:
    """Error rates."""
    out = bundle.parent / f"{manifest.stem}.json"
    if not out.exists():
        speechkit("evaluate", str(bundle), str(manifest), "--json", str(out))
    scores = json.loads(out.read_text(encoding="utf-8"))
    return {"wer": scores["wer"], "cer": scores["cer"]}


def measure_strings(runs: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """With and without pretraining, on the same speakers and on strangers."""
    strings = runs / "strings"
    make_strings(strings)
    os.environ["SPEECHKIT_STRINGS"] = str(strings)
    manifests = [str(DATA / name / "train.jsonl") for name in CORPORA] + [str(strings / "unlabelled.jsonl")]
    encoder = train(runs / "pretrained-8khz", "pretrain", "--config", "cpc_8khz", f"data.train={json.dumps(manifests)}")
    rows = []
    for seed in seeds:
        row: dict[str, Any] = {"seed": seed}
        for name in ("scratch", "pretrained"):
            options = [f"model.encoder_from={encoder}"] if name == "pretrained" else []
            out = runs / f"strings-{name}-{seed}"
            bundle = train(out, "finetune", "--config", "digit_strings", f"seed_everything={seed}", *options)
            row[name] = {test: score(bundle, strings / f"{test}.jsonl") for test in ("test", "unseen")}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return {"seeds": rows, "relative_reduction": {test: reduction(rows, test) for test in ("test", "unseen")}}


def reduction(rows: Sequence[dict[str, Any]], test: str) -> float:
    """By how much the mean word error rate falls."""
    scratch, pretrained = (
        statistics.mean(row[name][test]["wer"] for row in rows) for name in ("scratch", "pretrained")
    )
    return 1.0 - pretrained / scratch


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/label-efficiency"), help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(%(default)s)")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    strings = measure_strings(arguments.runs, arguments.seeds)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {package: importlib.metadata.version(package) for package in ("torch", "lightning")},
        "digit strings": strings,
    }
    (RESULTS / "label_efficiency.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(strings["relative_reduction"]))


if __name__ == "__main__":
    main()
