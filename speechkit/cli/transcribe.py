"""`speechkit transcribe [--model BUNDLE] FILE|DIR|PATTERN|MANIFEST|-...`."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from speechkit.cli.bundle_arguments import add_bundle_arguments
from speechkit.cli.decoding import add_decoding_arguments, load_recognizer
from speechkit.models import DIGITS

if TYPE_CHECKING:
    from speechkit.pipelines.recordings import Recording
    from speechkit.recognizer import Transcript
    from speechkit.transcription import StreamResult


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="recordings to text",
        description="Transcribes recordings of any length. A file that cannot be read is named and the others are "
        "done; what is there already in the output folder is left alone, so an interrupted run goes on. "
        "Exit status 0: all done, 1: some failed, 2: none could be done, or a wrong call.",
    )
    parser.add_argument(
        "--model", metavar="BUNDLE", help="folder or .zip (the model in the wheel, for strings of English digits)"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files, folders (searched through and through), quoted patterns such as 'talks/**/*.mp3', manifests "
        "(.jsonl, .json), or - for WAV or raw PCM from standard input, transcribed as it comes",
    )
    parser.add_argument("--format", choices=("txt", "srt", "vtt", "json", "ctm", "tsv"), default="txt", help="(txt)")
    parser.add_argument("-o", "--out", metavar="DIR", help="write one file for each input instead of printing")
    parser.add_argument("--overwrite", action="store_true", help="also write what is there already")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads that read files (%(default)s)")
    parser.add_argument("--batch-seconds", type=float, default=60.0, metavar="S", help="audio in a batch (%(default)s)")
    add_bundle_arguments(parser)
    parser.add_argument(
        "--nbest", type=int, default=1, metavar="N", help="texts of each segment, in json, of a search (%(default)s)"
    )
    add_decoding_arguments(parser)
    pipe = parser.add_argument_group("standard input")
    pipe.add_argument(
        "--pcm-rate", type=int, metavar="HZ", help="of raw 16-bit little-endian mono PCM (default: the model's)"
    )
    pipe.add_argument(
        "--partial-seconds", type=float, default=0.3, metavar="S", help="speech between partial results (%(default)s)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.model is None:
        arguments.model = str(DIGITS)
        print("model: digits, of the wheel (the words zero to nine); --model BUNDLE takes another", file=sys.stderr)
    if arguments.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {arguments.workers}")
    if not arguments.batch_seconds > 0:
        raise ValueError(f"--batch-seconds must be positive, got {arguments.batch_seconds:g}")
    if arguments.nbest < 1:
        raise ValueError(f"--nbest must be at least 1, got {arguments.nbest}")
    if arguments.nbest > 1 and arguments.format != "json":
        raise ValueError(f"--nbest needs --format json, got {arguments.format}")
    if arguments.inputs == ["-"]:
        return _run_stream(arguments)
    if "-" in arguments.inputs:
        raise ValueError("`-`, standard input, must be the only input")
    from tqdm import tqdm

    from speechkit.pipelines.recordings import find_recordings
    from speechkit.pipelines.transcribe import transcribe
    from speechkit.transcription import FORMATS

    recordings = find_recordings(arguments.inputs)
    if arguments.out is None and arguments.format in ("srt", "vtt", "tsv") and len(recordings) > 1:
        raise ValueError(f"--format {arguments.format} prints one recording only; give -o DIR for {len(recordings)}")
    start, heard = time.perf_counter(), 0.0
    with tqdm(total=len(recordings), unit=" files", disable=not sys.stderr.isatty()) as bar:

        def report(recording: "Recording", transcript: "Transcript") -> None:
            nonlocal heard
            heard += transcript.duration_seconds
            bar.set_postfix_str(f"{heard / (time.perf_counter() - start):.0f} x real time", refresh=False)
            bar.update()
            if transcript.error is not None:
                tqdm.write(f"failed: {transcript.error}", file=sys.stderr)
            elif arguments.out is None:
                text = FORMATS[arguments.format](recording.name, transcript)
                print(f"{recording.name}\t{text}" if arguments.format == "txt" else text, end="", flush=True)

        tally = transcribe(
            lambda: load_recognizer(arguments.model, arguments),
            recordings,
            format_name=arguments.format,
            out=None if arguments.out is None else Path(arguments.out),
            overwrite=arguments.overwrite,
            batch_seconds=arguments.batch_seconds,
            num_best=arguments.nbest,
            num_workers=arguments.workers,
            on_result=report,
        )
        bar.total = tally.done + tally.failed
    if tally.skipped:
        print(
            f"{tally.skipped} of {len(recordings)} files were done already (--overwrite does them anew)",
            file=sys.stderr,
        )
    if tally.failed:
        print(f"{tally.failed} of {len(recordings)} files failed", file=sys.stderr)
    return 0 if not tally.failed else 1 if tally.done or tally.skipped else 2


def _run_stream(arguments: argparse.Namespace) -> int:
    """Partial results, each in the place of the one before, and final ones; segments as they end."""
    from speechkit.audio.standard_input import PCMFormat, stream_pipe

    if arguments.format not in ("txt", "json"):
        raise ValueError(f"--format {arguments.format} needs a whole recording; standard input has txt and json")
    if arguments.out is not None:
        raise ValueError(f"-o must stand without `-`, whose text is printed as it is heard, got {arguments.out}")
    if arguments.nbest > 1:
        raise ValueError(f"--nbest needs recordings, got {arguments.nbest} for `-`, whose results come one by one")
    if arguments.pcm_rate is not None and arguments.pcm_rate <= 0:
        raise ValueError(f"--pcm-rate must be positive, got {arguments.pcm_rate}")
    recognizer = load_recognizer(arguments.model, arguments)
    print(f"listening; the model gives {recognizer.describe_latency()}", file=sys.stderr, flush=True)
    rate, pieces = stream_pipe(sys.stdin.buffer, PCMFormat(arguments.pcm_rate or recognizer.sample_rate_hz))
    stream = recognizer.stream(
        sample_rate_hz=rate, partial_seconds=arguments.partial_seconds, word_times=arguments.format == "json"
    )
    try:
        for samples in pieces:
            for result in stream.push(samples):
                _print_result(result, arguments.format)
    except KeyboardInterrupt:  # how a microphone is put down
        print(file=sys.stderr)
    for result in stream.finish():
        _print_result(result, arguments.format)
    return 0


def _print_result(result: "StreamResult", format_name: str) -> None:
    from speechkit.transcription.formats import segment_as_dict

    kind = "final" if result.is_final else "partial"
    if format_name == "json":
        print(json.dumps({"type": kind, **segment_as_dict(result.segment)}, ensure_ascii=False), flush=True)
    elif sys.stdout.isatty():
        print(f"\r\033[K{result.segment.text}", end="\n" if result.is_final else "", flush=True)
    else:
        print(f"{kind}\t{result.segment.text}", flush=True)
