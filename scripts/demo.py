"""The main job on the embedded corpus: synthesise, pretrain without labels, fine-tune with and without, transcribe.

Every step is a command that is printed before it runs, so this file is also the shortest tutorial.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path


def run(*arguments: str, log: Path) -> float:
    """Prints and runs `speechkit ...`, its output into `log`; returns the seconds it took. A failure ends the demo."""
    print(f"\n$ speechkit {shlex.join(arguments)}", flush=True)
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "speechkit", *arguments]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    seconds = time.perf_counter() - start
    if code:
        print(log.read_text(encoding="utf-8", errors="replace")[-3000:])
        sys.exit(f"the command failed with exit status {code}; its output is in {log}")
    print(f"  done in {seconds:.0f} s", flush=True)
    return seconds


def show(log: Path, lines: slice) -> None:
    """Shows some lines of a command's output."""
    for line in log.read_text(encoding="utf-8").splitlines()[lines]:
        print(f"  {line}", flush=True)


def synthesise(out: Path) -> None:
    """Writes the corpus, unless it is there."""
    if not (out / "corpus" / "corpus.json").exists():
        run("data", "synth", str(out / "corpus"), log=out / "synth.log")
        show(out / "synth.log", slice(-4, None))


def train(out: Path, name: str, command: str, seed: int, *options: str) -> float:
    """Trains into out/name, going on from a checkpoint that an interrupted demo left; returns the seconds it took."""
    resume = ["--ckpt", "last"] if (out / name / "checkpoints" / "last.ckpt").exists() else []
    arguments = [command, "--config", "demo", "--out", str(out / name), f"seed_everything={seed}", *options, *resume]
    return run(*arguments, log=out / f"{name}.log")


def train_and_score(out: Path, seed: int) -> dict[str, float]:
    """Pretrains, fine-tunes without and with; returns word error rates on held-out speakers, and seconds.

    What an interrupted demo has finished stands in out/figures.json and is not done again.
    """
    path = out / "figures.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, command, options in (
        ("pretrain", "pretrain", []),
        ("scratch", "finetune", []),
        ("pretrained", "finetune", [f"model.encoder_from={out / 'pretrain' / 'bundle'}"]),
    ):
        if f"{name}_seconds" not in figures:
            figures[f"{name}_seconds"] = train(out, name, command, seed, *options)
        if command == "finetune" and f"{name}_wer" not in figures:
            log, scores = out / f"evaluate-{name}.log", out / f"{name}.json"
            test = str(out / "corpus" / "test.jsonl")
            run("evaluate", str(out / name / "bundle"), test, "--json", str(scores), log=log)
            show(log, slice(0, 2))
            figures[f"{name}_wer"] = json.loads(scores.read_text(encoding="utf-8"))["wer"]
        path.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def transcribe_three(out: Path) -> None:
    """Transcribes recordings of voices that no training saw, and shows what was said."""
    lines = (out / "corpus" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:: len(lines) // 3][:3]]
    files = [str(out / "corpus" / row["audio_filepath"]) for row in rows]
    run("transcribe", "--model", str(out / "pretrained" / "bundle"), *files, log=out / "transcribe.log")
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
