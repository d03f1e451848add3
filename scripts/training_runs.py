"""Trainings and scores of the benchmarks by the command line: begun, gone on with, or kept."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


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
