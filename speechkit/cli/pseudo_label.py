"""`speechkit pseudo-label MODEL MANIFEST...`: a manifest of what a model transcribes well enough to learn from."""

import argparse
import sys

from speechkit.cli.bundle_arguments import add_bundle_arguments


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="transcribe recordings without text to train on them",
        description="Transcribes manifests and writes one of the utterances that the model is sure of and whose rate "
        "of speech is that of the labelled ones. Train with both: data.train=[LABELLED, OUT]. What is interrupted "
        "goes on when it is called again.",
    )
    parser.add_argument("model", metavar="BUNDLE", help="folder or .zip; with a language model, if it holds one")
    parser.add_argument("unlabelled", nargs="+", metavar="MANIFEST", help="recordings; their texts are not looked at")
    parser.add_argument(
        "--labelled",
        nargs="+",
        required=True,
        metavar="MANIFEST",
        help="recordings with text; where they recur they are left out",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="manifest to write (.jsonl)")
    parser.add_argument("--min-confidence", type=float, default=0.5, metavar="P", help="in [0, 1] (%(default)s)")
    parser.add_argument(
        "--length-ratio",
        nargs=2,
        type=float,
        default=(0.3, 2.0),
        metavar=("MIN", "MAX"),
        help="characters a second over those of the labelled ones (0.3 2.0)",
    )
    parser.add_argument("--no-language-model", action="store_true", help="decode greedily")
    parser.add_argument("--overwrite", action="store_true", help="write --out even if it exists")
    add_bundle_arguments(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from tqdm import tqdm

    from speechkit.bundle_files import files_digest, read_bundle_files
    from speechkit.data.manifest import expand_path
    from speechkit.decoding.pseudo_labels import PseudoLabelFilter
    from speechkit.pipelines.pseudo_label import pseudo_label
    from speechkit.recognizer import Recognizer

    keep = PseudoLabelFilter(arguments.min_confidence, *arguments.length_ratio)
    if Path(arguments.out).exists() and not arguments.overwrite:
        raise ValueError(f"--out {arguments.out}: exists already; --overwrite replaces it")
    recognizer = Recognizer.load(
        arguments.model,
        device=arguments.device,
        use_language_model=not arguments.no_language_model,
        trusted_packages=arguments.trust,
    )
    with tqdm(unit=" s audio", disable=not sys.stderr.isatty()) as bar:
        result = pseudo_label(
            recognizer,
            [expand_path(path) for path in arguments.unlabelled],
            [expand_path(path) for path in arguments.labelled],
            arguments.out,
            keep,
            teacher=f"{files_digest(read_bundle_files(arguments.model))} {arguments.no_language_model}",
            on_progress=bar.update,
        )
    print(
        f"{arguments.out}: {result.num_kept} utterances, {result.kept_seconds / 3600:.2f} h; "
        f"{result.num_dropped} dropped, {result.num_failed} not readable"
    )
    return 1 if result.num_failed else 0
