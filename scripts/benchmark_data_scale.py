"""What training data of 10 million utterances cost before and between the steps: seconds and memory.

`python scripts/benchmark_data_scale.py` writes benchmarks/results/data_scale.json and data_scale.md. Archives: an
index of that many rows without its audio, as only the index is read to plan batches. Manifests: as many rows as fit
this machine, all of them segments of one short file, and their memory a row. Each figure is of a process of its own.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from memory import forget_peak, resident

from speechkit.data import ArchiveBatchSampler, ArchivedCuts, BucketBatchSampler, read_cuts
from speechkit.data.archive import INDEX_DTYPE

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
ARCHIVE_ROWS = (100_000, 1_000_000, 10_000_000)
MANIFEST_ROWS = (10_000, 40_000)
ROWS_PER_SHARD = 300
BATCH_SECONDS, WORLD_SIZE = 5400.0, 8  # an hour and a half over eight devices


def write_index(folder: Path, num_rows: int) -> None:
    """An archive's index of utterances of 2 to 22 s, 12 s in the mean, written in pieces."""
    generator = np.random.default_rng(0)
    with (folder / "index.bin").open("wb") as file:
        for first in range(0, num_rows, 1 << 20):
            rows = np.zeros(min(1 << 20, num_rows - first), dtype=INDEX_DTYPE)
            rows["shard"] = (first + np.arange(len(rows))) // ROWS_PER_SHARD
            rows["milliseconds"] = generator.integers(2000, 22000, size=len(rows))
            file.write(rows.tobytes())
    (folder / "archive.json").write_text(json.dumps({"utterances": num_rows}))


def write_manifest(folder: Path, num_rows: int) -> None:
    """Rows that are spans of one file."""
    soundfile.write(folder / "a.wav", np.zeros(16000 * 30), 16000)
    lengths = np.random.default_rng(0).uniform(2, 22, size=num_rows)
    with (folder / "m.jsonl").open("w") as file:
        for place, seconds in enumerate(lengths):
            row = {"audio_filepath": "a.wav", "offset": place % 8, "duration": round(seconds, 3), "text": "x" * 150}
            file.write(json.dumps(row) + "\n")


def measure(kind: str, folder: Path) -> dict[str, Any]:
    """One run, in this process: opening, the first batch, an epoch's plan, a resume in its middle; megabytes."""
    forget_peak()
    before = resident("VmHWM")
    start = time.perf_counter()
    sampler: ArchiveBatchSampler | BucketBatchSampler
    if kind == "archive":
        sampler = ArchiveBatchSampler(ArchivedCuts([folder]), batch_seconds=BATCH_SECONDS, world_size=WORLD_SIZE)
    else:
        cuts = list(read_cuts(folder / "m.jsonl"))
        durations = [cut.duration for cut in cuts]
        sampler = BucketBatchSampler(durations, batch_seconds=BATCH_SECONDS, world_size=WORLD_SIZE)
    opened = time.perf_counter()
    next(iter(sampler))
    first = time.perf_counter()
    for _ in sampler:
        pass
    whole = time.perf_counter()
    sampler.resume(0, len(sampler) // 2)
    next(iter(sampler))
    return {
        "open_s": opened - start,
        "first_batch_s": first - opened,
        "epoch_s": whole - first,
        "resume_s": time.perf_counter() - whole,
        "before_mb": before / 2**20,
        "peak_mb": resident("VmHWM") / 2**20,
        "batches": len(sampler),
    }


def measure_apart(kind: str, num_rows: int) -> dict[str, Any]:
    """`measure` in a fresh process, on fresh files."""
    with tempfile.TemporaryDirectory() as name:
        {"archive": write_index, "manifest": write_manifest}[kind](Path(name), num_rows)
        command = [sys.executable, __file__, "--measure", kind, name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"kind": kind, "rows": num_rows, **json.loads(printed.splitlines()[-1])}


def write_results(rows: list[dict[str, Any]]) -> None:
    """data_scale.json and its table."""
    facts = {
        "command": "python scripts/benchmark_data_scale.py",
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "lhotse")},
        "batch_seconds": BATCH_SECONDS,
        "world_size": WORLD_SIZE,
        "rows": rows,
    }
    (RESULTS / "data_scale.json").write_text(json.dumps(facts, indent=2) + "\n")
    lines = [
        "# Training data at scale",
        "",
        "Made by `scripts/benchmark_data_scale.py`: one of eight ranks, batches of 5400 s. `own MB` is the peak less",
        "what the process held before it opened the data.",
        "",
        "| data | utterances | hours | open, s | first batch, s | plan of an epoch, s | resume half-way, s | own MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = " | ".join(f"{row[name]:.2f}" for name in ("open_s", "first_batch_s", "epoch_s", "resume_s"))
        own = row["peak_mb"] - row["before_mb"]
        lines.append(f"| {row['kind']} | {row['rows']:,} | {row['rows'] * 12 // 3600:,} | {times} | {own:.0f} |")
    small, large = [row for row in rows if row["kind"] == "manifest"]
    kilobytes = 1024 * (large["peak_mb"] - small["peak_mb"]) / (large["rows"] - small["rows"])
    micros = 1e6 * (large["open_s"] - small["open_s"]) / (large["rows"] - small["rows"])
    lines += [
        "",
        f"A manifest takes {kilobytes:.1f} kB and {micros:.0f} us an utterance: {kilobytes * 1e7 / 1e6:.0f} GB and "
        f"{micros * 1e7 / 6e7:.0f} minutes for 10 million, in every process.",
    ]
    (RESULTS / "data_scale.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], Path(arguments.measure[1]))))
        return
    rows = [measure_apart("archive", count) for count in ARCHIVE_ROWS]
    write_results(rows + [measure_apart("manifest", count) for count in MANIFEST_ROWS])


if __name__ == "__main__":
    main()
