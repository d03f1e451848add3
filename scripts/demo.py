"""The main job on the embedded corpus: synthesise, pretrain without labels, fine-tune with and without, transcribe.

Every step is a command that is printed before it runs, so this file is also the shortest tutorial.
"""

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Job(NamedTuple):
    """A command and where its output goes."""

    arguments: Sequence[str]
    log: Path


def run(*jobs: Job) -> list[float]:
    """Prints and runs commands `speechkit ...` side by side; returns the seconds of each. A failure ends the demo."""
    start, seconds = time.perf_counter(), [0.0] * len(jobs)
    environment = dict(os.environ)
    if len(jobs) > 1:  # each takes its share of the cores
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(jobs))))
    with contextlib.ExitStack() as open_files:
        running = {}
        for place, job in enumerate(jobs):
            print(f"\n$ speechkit {shlex.join(job.arguments)}", flush=True)
            file = open_files.enter_context(job.log.open("w", encoding="utf-8"))
            command = [sys.executable, "-m", "speechkit", *job.arguments]
            running[place] = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        while running:
            for place, process in list(running.items()):
                if process.poll() is not None:
                    seconds[place] = time.perf_counter() - start
                    del running[place]
                    if process.returncode:
                        for other in running.values():
                            other.terminate()
                        log = jobs[place].log
                        print(log.read_text(encoding="utf-8", errors="replace")[-3000:])
                        sys.exit(f"the command failed with exit status {process.returncode}; its output is in {log}")
            time.sleep(0.1)
    print(f"  done in {max(seconds):.0f} s", flush=True)
    return seconds


def show(log: Path, lines: slice) -> None:
    """Shows some lines of a command's output."""
    for line in log.read_text(encoding="utf-8").splitlines()[lines]:
        print(f"  {line}", flush=True)


def synthesise(out: Path) -> None:
    """Writes the corpus, unless it is there."""
    if not (out / "corpus" / "corpus.json").exists():
        run(Job(["data", "synth", str(out / "corpus")], out / "synth.log"))
        show(out / "synth.log", slice(-4, None))


def training(out: Path, name: str, seed: int) -> Job:
    """A training into out/name, going on from a checkpoint that an interrupted demo left."""
    command = "pretrain" if name == "pretrain" else "finetune"
    arguments = [command, "--config", "demo", "--out", str(out / name), f"seed_everything={seed}"]
    if name == "pretrained":
        arguments.append(f"model.encoder_from={out / 'pretrain' / 'bundle'}")
    if (out / name / "checkpoints" / "last.ckpt").exists():
        arguments += ["--ckpt", "last"]
    return Job(arguments, out / f"{name}.log")


def train_and_score(out: Path, seed: int) -> dict[str, float]:
    """Pretrains, fine-tunes without and with; returns word error rates on held-out speakers, and seconds.

    What an interrupted demo has finished stands in out/figures.json and is not done again.
    """
    path = out / "figures.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for names in (["pretrain"], ["scratch", "pretrained"]):
        missing = [name for name in names if f"{name}_seconds" not in figures]
        if missing:
            seconds = run(*(training(out, name, seed) for name in missing))
            figures |= {f"{name}_seconds": took for name, took in zip(missing, seconds, strict=True)}
            path.write_text(json.dumps(figures), encoding="utf-8")
    for name in ("scratch", "pretrained"):
        if f"{name}_wer" not in figures:
            log, scores = out / f"evaluate-{name}.log", out / f"{name}.json"
            test = str(out / "corpus" / "test.jsonl")
            run(Job(["evaluate", str(out / name / "bundle"), test, "--json", str(scores)], log))
            show(log, slice(0, 2))
            figures[f"{name}_wer"] = json.loads(scores.read_text(encoding="utf-8"))["wer"]
            path.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def transcribe_three(out: Path) -> None:
    """Transcribes recordings of voices that no training saw, and shows what was said."""
    lines = (out / "corpus" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:: len(lines) // 3][:3]]
    files = [str(out / "corpus" / row["audio_filepath"]) for row in rows]
    run(Job(["transcribe", "--model", str(out / "pretrained" / "bundle"), *files], out / "transcribe.log"))
    heard = dict(line.split("\t") for line in (out / "transcribe.log").read_text().splitlines() if "\t" in line)
    for row, file in zip(rows, files, strict=True):
        print(f"  {Path(file).name}\n    said:  {row['text']}\n    heard: {heard[file]}")


def main() -> None:
    """The demo from end to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    arguments = parser.parse_args()
    start = time.perf_counter()
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["SPEECHKIT_DEMO"] = str(arguments.out)
    synthesise(arguments.out)
    figures = train_and_score(arguments.out, arguments.seed)
    transcribe_three(arguments.out)
    gain = 1 - figures["pretrained_wer"] / max(figures["scratch_wer"], 1e-9)
    print(
        f"\nWord error rate on {_count_speakers(arguments.out)} held-out speakers, one seed:\n"
        f"  without pretraining  {figures['scratch_wer']:7.2%}\n"
        f"  with pretraining     {figures['pretrained_wer']:7.2%}   ({gain:.0%} fewer errors)\n"
        f"The whole demo took {time.perf_counter() - start:.0f} s. Go on with your own recordings:\n"
        "  .venv/bin/speechkit data check YOUR.jsonl\n"
        "  .venv/bin/speechkit configs copy cpc my-pretraining.yaml\n"
        "  .venv/bin/speechkit pretrain --config my-pretraining.yaml --out runs/pretrain\n"
        f"  .venv/bin/speechkit transcribe --model {arguments.out}/pretrained/bundle FILE...\n"
        "and read docs/."
    )


def _count_speakers(out: Path) -> int:
    lines = (out / "corpus" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return len({json.loads(line)["speaker"] for line in lines})


if __name__ == "__main__":
    main()
