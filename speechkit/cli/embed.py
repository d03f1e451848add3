"""`speechkit embed BUNDLE INPUT... -o OUT`: an encoder's frames as files."""

import argparse
import sys
from pathlib import Path

from speechkit.cli.probe import add_representation


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="write an encoder's frames of recordings as files",
        description="Writes frames (T, D) in float32 and their times in seconds. What is there already is kept, so a "
        "job that was interrupted goes on where it was. A file that cannot be read is named and the others are done.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .zip, pretrained or fine-tuned")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, patterns, manifests")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="one file for each input is written here")
    add_representation(parser, ("context", "latents", "features"))
    parser.add_argument(
        "--format",
        choices=("npy", "safetensors"),
        default="npy",
        help="NAME.npy with NAME.times.npy, or NAME.safetensors with both (%(default)s)",
    )
    parser.add_argument(
        "--batch-seconds", type=float, default=120.0, metavar="S", help="audio in a batch (%(default)s)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.acoustic_model import check_device
    from speechkit.bundle import load_bundle
    from speechkit.data import Utterance
    from speechkit.pipelines.recordings import find_recordings, output_files
    from speechkit.probing import FeatureExtractor, embed_files

    if arguments.batch_seconds <= 0:
        raise ValueError(f"`--batch-seconds` must be positive, got {arguments.batch_seconds:g}.")
    check_device(arguments.device)
    recordings = find_recordings(arguments.inputs)
    bundle = load_bundle(arguments.bundle, trusted_packages=arguments.trust)
    extractor = FeatureExtractor(
        bundle.front_end,
        bundle.encoder,
        what=arguments.what,
        layer=arguments.layer,
        device=arguments.device,
    )
    utterances = [
        Utterance(
            Path(recording.audio.path), recording.audio.duration_seconds, offset_seconds=recording.audio.offset_seconds
        )
        for recording in recordings
    ]
    targets = output_files(recordings, Path(arguments.out), arguments.format)
    counts = {"written": 0, "kept": 0, "failed": 0}
    with tqdm(total=len(recordings), unit=" files", disable=not sys.stderr.isatty()) as bar:
        for done in embed_files(
            extractor, utterances, targets, file_format=arguments.format, batch_seconds=arguments.batch_seconds
        ):
            bar.update()
            counts["failed" if done.error else "kept" if done.num_frames is None else "written"] += 1
            if done.error:
                tqdm.write(f"failed: {done.error}", file=sys.stderr)
    print(
        f"{arguments.out}: {counts['written']} files written, {counts['kept']} kept: {extractor.dim} numbers "
        f"every {1000 * extractor.step_seconds:g} ms"
    )
    if counts["failed"]:
        print(f"{counts['failed']} of {len(recordings)} files failed", file=sys.stderr)
    return 1 if counts["failed"] else 0
