"""What `transcribe` promises, measured on strings joined from recordings of digits that no training has heard.

`python scripts/benchmark_transcription.py BUNDLE` writes benchmarks/results/transcription.{json,md}: the memory, speed
and text of a recording of hours against the same utterances one by one; a folder of a thousand files with broken ones
among them; when words start against when they are known to; and how soon a live pipe is heard.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from digit_strings import RATE, read_digits

from speechkit import Recognizer
from speechkit.decoding import count_errors

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.setdefault("SPEECHKIT_DATA", str(ROOT.parent / "shared" / "data")))
PEAK = "import resource,sys; from speechkit.cli.main import main; status = main(sys.argv[1:]); " + (
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(status)"
)


class DigitString(NamedTuple):
    """Samples, the words, and the sample at which each starts."""

    samples: np.ndarray
    words: list[str]
    starts: list[int]


def draw_strings(count: int, seed: int, *, gap_seconds: tuple[float, float] = (0.05, 0.25)) -> list[DigitString]:
    """Strings of three to seven digits of one speaker, from the test recordings, near silence between."""
    generator = np.random.default_rng(seed)
    speakers = read_digits(DATA / "digits", "test")
    strings = []
    for place in range(count):
        recordings = list(speakers.values())[place % len(speakers)]
        pieces, words, starts, total = [], [], [], 0
        for index in generator.integers(len(recordings), size=generator.integers(3, 8)):
            gap = generator.normal(0.0, 1e-4, int(generator.uniform(*gap_seconds) * RATE)).astype(np.float32)
            starts.append(total + len(gap))
            words.append(recordings[index]["text"])
            pieces += [gap, recordings[index]["samples"]]
            total = starts[-1] + len(pieces[-1])
        strings.append(DigitString(np.concatenate(pieces), words, starts))
    return strings


def run_cli(*arguments: str, threads: int = 2) -> tuple[int, str, float, float]:
    """Status, standard output, seconds and peak MB of a command of its own process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    command = [sys.executable, "-c", PEAK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds = time.perf_counter() - start
    return done.returncode, done.stdout, seconds, int(done.stderr.strip().splitlines()[-1]) / 1024


def bench_long(bundle: str, folder: Path, hours: float) -> dict[str, Any]:
    """Hours in one file against a minute, and against the same strings on their own."""
    strings = draw_strings(200, seed=1)
    generator = np.random.default_rng(1)
    order: list[int] = []
    total = 0.0
    with soundfile.SoundFile(folder / "long.wav", "w", RATE, 1) as file:
        while total < 3600 * hours:
            order.append(int(generator.integers(len(strings))))
            pause = generator.normal(0.0, 1e-4, int(generator.uniform(0.1, 2.0) * RATE)).astype(np.float32)
            file.write(np.concatenate([strings[order[-1]].samples, pause]).clip(-1.0, 1.0))
            total += (len(strings[order[-1]].samples) + len(pause)) / RATE
    with soundfile.SoundFile(folder / "long.wav") as file:
        soundfile.write(folder / "minute.wav", file.read(60 * RATE), RATE)
    _, _, short_seconds, short_mb = run_cli("transcribe", "--model", bundle, str(folder / "minute.wav"))
    _, out, long_seconds, long_mb = run_cli("transcribe", "--model", bundle, str(folder / "long.wav"))
    heard = out.split("\t", 1)[1].split()
    alone = [transcript.text.split() for transcript in Recognizer.load(bundle).transcribe([s.samples for s in strings])]
    expected = [word for index in order for word in alone[index]]
    said = [word for index in order for word in strings[index].words]
    return {
        "hours": total / 3600,
        "seconds": long_seconds,
        "times_real_time": total / long_seconds,
        "peak_mb": long_mb,
        "peak_mb_of_a_minute": short_mb,
        "seconds_of_a_minute": short_seconds,
        "words": len(expected),
        "words_as_alone": 1.0 - count_errors(expected, heard).errors / len(expected),
        "wer": count_errors(said, heard).errors / len(said),
        "wer_alone": count_errors(said, expected).errors / len(said),
    }


def bench_folder(bundle: str, folder: Path) -> dict[str, Any]:
    """980 good files of mixed length and rate, 20 bad ones; a second run; the good ones one after another."""
    generator = np.random.default_rng(2)
    inputs = folder / "inputs"
    inputs.mkdir()
    files = []
    for place, string in enumerate(draw_strings(980, seed=2)):
        rate = int(generator.choice([8000, 16000, 22050]))
        samples = np.interp(
            np.arange(0, len(string.samples), RATE / rate), np.arange(len(string.samples)), string.samples
        )
        files.append(inputs / f"{place:04d}.{('wav', 'flac')[place % 2]}")
        soundfile.write(files[-1], samples.clip(-1.0, 1.0), rate)
    for place in range(20):
        whole = files[2 * place].read_bytes()
        bad = [b"", b"not audio at all", whole[: len(whole) // 2], whole[:40]][place % 4]
        (inputs / f"bad{place:02d}.wav").write_bytes(bad)
    arguments = ["transcribe", "--model", bundle, str(inputs), "-o", str(folder / "out")]
    status, _, seconds, _ = run_cli(*arguments)
    written = len(list((folder / "out").glob("*.txt")))
    again_status, _, again_seconds, _ = run_cli(*arguments)
    recognizer = Recognizer.load(bundle)
    recognizer.transcribe(files[:5])
    together, one_by_one = [], []
    for _ in range(3):  # in one process, in turn
        start = time.perf_counter()
        recognizer.transcribe(files)
        together.append(time.perf_counter() - start)
        start = time.perf_counter()
        for file in files:
            recognizer.transcribe([file])
        one_by_one.append(time.perf_counter() - start)
    return {
        "files": 1000,
        "transcripts": written,
        "status": status,
        "seconds": seconds,
        "status_again": again_status,
        "seconds_again": again_seconds,
        "seconds_together": statistics.median(together),
        "seconds_one_by_one": statistics.median(one_by_one),
        "times_one_by_one": statistics.median(one_by_one) / statistics.median(together),
    }


def bench_words(bundle: str) -> dict[str, Any]:
    """How far the starts of words that are heard rightly are from where they are."""
    strings = draw_strings(300, seed=3)
    transcripts = Recognizer.load(bundle).transcribe([string.samples for string in strings])
    errors = []
    for string, transcript in zip(strings, transcripts, strict=True):
        if [word.text for word in transcript.words] == string.words:
            pairs = zip(transcript.words, string.starts, strict=True)
            errors += [1000 * (word.start_seconds - start / RATE) for word, start in pairs]
    absolute = np.abs(errors)
    return {
        "words": len(errors),
        "strings_right": sum(t.text.split() == s.words for t, s in zip(transcripts, strings, strict=True))
        / len(strings),
        "median_ms": float(np.median(absolute)),
        "within_80_ms": float((absolute <= 80).mean()),
        "p95_ms": float(np.quantile(absolute, 0.95)),
        "mean_offset_ms": float(np.mean(errors)),
    }


def bench_pipe(bundle: str) -> dict[str, Any]:
    """Seconds from the end of a word that was piped in as it was said to the first partial result with it."""
    string = draw_strings(8, seed=4)
    samples = np.concatenate([np.concatenate([s.samples, np.zeros(RATE // 2, dtype=np.float32)]) for s in string])
    pcm = (samples.clip(-1.0, 1.0) * 32767).astype("<i2").tobytes()
    command = [sys.executable, "-m", "speechkit", "transcribe", "--model", bundle, "-", "--format", "json"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.readline()  # it listens
    start = time.perf_counter()

    def speak() -> None:
        for place in range(0, len(pcm), RATE // 10 * 2):
            time.sleep(max(0.0, start + (place / 2 + RATE // 10) / RATE - time.perf_counter()))
            process.stdin.write(pcm[place : place + RATE // 10 * 2])
            process.stdin.flush()
        process.stdin.close()

    threading.Thread(target=speak, daemon=True).start()
    results = [(time.perf_counter() - start, json.loads(line)) for line in process.stdout]
    final = [word for _, result in results if result["type"] == "final" for word in result["text"].split()]
    delays, count, done = [], 0, 0
    ends = [
        (offset + stop) / RATE
        for offset, s in zip(np.cumsum([0, *(len(s.samples) + RATE // 2 for s in string)]), string, strict=False)
        for stop in [*s.starts[1:], len(s.samples)]
    ]
    for seconds, result in results:
        heard = done + len(result["text"].split())
        for place in range(count, min(heard, len(ends))):
            delays.append(seconds - ends[place])
        count = max(count, heard)
        done += len(result["text"].split()) if result["type"] == "final" else 0
    (offline,) = Recognizer.load(bundle).transcribe([np.frombuffer(pcm, "<i2").astype(np.float32) / 32768])
    return {
        "words": len(ends),
        "first_partial_seconds": delays[0],
        "median_seconds": statistics.median(delays),
        "longest_seconds": max(delays),
        "final_is_offline_text": final == offline.text.split(),
    }


def write_table(result: dict[str, Any]) -> None:
    """transcription.md from the JSON."""
    long, folder, words, pipe = (result[name] for name in ("long", "folder", "words", "pipe"))
    rows = [
        (f"a file of {long['hours']:.1f} h, 2 threads", f"{long['times_real_time']:.0f} x real time"),
        ("its peak memory beyond that of a minute's", f"{long['peak_mb'] - long['peak_mb_of_a_minute']:.0f} MB"),
        ("its words that are those of its utterances alone", f"{100 * long['words_as_alone']:.2f} %"),
        ("WER in one file, and alone", f"{100 * long['wer']:.2f} %, {100 * long['wer_alone']:.2f} %"),
        ("1,000 files, 20 of them bad: transcripts, status", f"{folder['transcripts']}, {folder['status']}"),
        ("the same again", f"{folder['seconds_again']:.1f} s after {folder['seconds']:.1f} s"),
        ("together against one by one", f"{folder['times_one_by_one']:.1f} x faster"),
        ("word starts: median error, within 80 ms",
         f"{words['median_ms']:.0f} ms, {100 * words['within_80_ms']:.1f} %"),
        ("live pipe: first partial, median, longest after a word's end",
         f"{pipe['first_partial_seconds']:.2f} s, {pipe['median_seconds']:.2f} s, {pipe['longest_seconds']:.2f} s"),
        ("live pipe: final text is the offline text", "yes" if pipe["final_is_offline_text"] else "no"),
    ]  # fmt: skip
    lines = ["# Transcription", "", "Made by `scripts/benchmark_transcription.py` from `transcription.json`.", ""]
    lines += ["| what | figure |", "|---|---|", *(f"| {name} | {figure} |" for name, figure in rows)]
    lines += ["", f"{result['machine']}, {result['date']}, `{result['command']}`."]
    (RESULTS / "transcription.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE", help="of spoken digits at 8 kHz")
    parser.add_argument("--hours", type=float, default=3.0, help="of the long file (%(default)s)")
    parser.add_argument("--parts", nargs="+", choices=["long", "folder", "words", "pipe"], help="(all)")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    path = RESULTS / "transcription.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        benches = {
            "long": lambda: bench_long(arguments.bundle, Path(name), arguments.hours),
            "folder": lambda: bench_folder(arguments.bundle, Path(name)),
            "words": lambda: bench_words(arguments.bundle),
            "pipe": lambda: bench_pipe(arguments.bundle),
        }
        for part in arguments.parts or benches:
            result[part] = benches[part]()
            print(part, json.dumps(result[part]), flush=True)
    result |= {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {package: importlib.metadata.version(package) for package in ("torch", "numpy", "soundfile")},
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if all(part in result for part in benches):
        write_table(result)


if __name__ == "__main__":
    main()
