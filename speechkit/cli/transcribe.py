"""`speechkit transcribe --model BUNDLE FILE|DIR...`."""

import argparse
import json
import os
import sys
from pathlib import Path

from speechkit.audio.files import find_audio_files


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="recordings to text",
        description="Transcribes files and folders. A file that cannot be read is named and the others are done. "
        "Exit status 0: all files done, 1: some failed, 2: a wrong call.",
    )
    parser.add_argument("--model", required=True, metavar="BUNDLE", help="folder or .zip")
    parser.add_argument("inputs", nargs="+", metavar="FILE|DIR")
    parser.add_argument("--format", choices=("txt", "json"), default="txt", help="(%(default)s)")
    parser.add_argument("-o", "--out", metavar="DIR", help="write one file for each input instead of printing")
    parser.add_argument(
        "--batch-seconds", type=float, default=120.0, metavar="S", help="audio in a batch (%(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package in the bundle"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.recognizer import Recognizer

    files = find_audio_files(arguments.inputs)
    recognizer = Recognizer.load(arguments.model, device=arguments.device, trusted_packages=arguments.trust)
    targets = output_files(files, Path(arguments.out), arguments.format) if arguments.out else None
    failed = 0
    with tqdm(total=len(files), unit=" files", disable=not sys.stderr.isatty()) as bar:
        for place, transcript in recognizer.transcribe_iter(files, batch_seconds=arguments.batch_seconds):
            bar.update()
            if transcript.error is not None:
                failed += 1
                tqdm.write(f"failed: {transcript.error}", file=sys.stderr)
                continue
            row = {
                "file": str(files[place]),
                "text": transcript.text,
                "duration": round(transcript.duration_seconds, 3),
            }
            if targets is not None:
                _write(
                    targets[place],
                    transcript.text if arguments.format == "txt" else json.dumps(row, ensure_ascii=False),
                )
            elif arguments.format == "json":
                print(json.dumps(row, ensure_ascii=False), flush=True)
            else:
                print(f"{files[place]}\t{transcript.text}", flush=True)
    if failed:
        print(f"{failed} of {len(files)} files failed", file=sys.stderr)
    return 1 if failed else 0


def output_files(files: list[Path], folder: Path, suffix: str) -> list[Path]:
    """DIR/<stem>.<suffix>; where stems collide, the whole name and then a number keep the files apart."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    targets = []
    for file in files:
        candidates = [file.stem, file.name, *(f"{file.name}-{number}" for number in range(2, len(files) + 2))]
        name = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(name)
        targets.append(folder / f"{name}.{suffix}")
    return targets


def _write(target: Path, text: str) -> None:
    partial = target.with_name(target.name + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, target)
