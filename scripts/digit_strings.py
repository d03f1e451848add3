"""Strings of spoken digits, joined from recordings of single ones; for scripts/benchmark_label_efficiency.py."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 8000
STRANGERS = ("theo", "yweweler")


def read_digits(digits: Path, split: str) -> dict[str, list[dict[str, Any]]]:
    """Recordings of single digits by speaker."""
    by_speaker: dict[str, list[dict[str, Any]]] = {}
    for line in (digits / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        row["samples"] = soundfile.read(digits / row["audio_filepath"], dtype="float32")[0]
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
    out: Path,
    name: str,
    recordings: dict[str, list[dict[str, Any]]],
    speakers: Sequence[str],
    minutes: float,
    generator: np.random.Generator,
) -> None:
    """A manifest and its audio: strings of three to seven digits, each of one speaker, the speakers in turn."""
    seconds = 0.0
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


def make_strings(out: Path, digits: Path) -> None:
    """All parts, unless they are there. `unlabelled` is of the speakers with text; strangers are in `unseen` only."""
    if (out / "unseen.jsonl").exists():
        return
    generator = np.random.default_rng(0)
    recordings = {split: read_digits(digits, split) for split in ("train", "dev", "test")}
    known = [speaker for speaker in sorted(recordings["train"]) if speaker not in STRANGERS]
    for name, split, speakers, minutes in (
        ("train", "train", known, 10.0),
        ("unlabelled", "train", known, 20.0),
        ("dev", "dev", known, 3.0),
        ("test", "test", known, 8.0),
        ("unseen", "test", STRANGERS, 8.0),
    ):
        write_strings(out, name, recordings[split], speakers, minutes, generator)
