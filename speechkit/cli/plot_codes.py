"""`speechkit plot-codes BUNDLE [MANIFEST]`: a map of a codebook."""

import argparse
import sys
from pathlib import Path

from speechkit.cli.bundle_arguments import add_bundle_arguments


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="a map of the code words of vq-wav2vec or wav2vec 2.0",
        description="Draws code words on two principal axes, a panel for each group; with a manifest, each as large as "
        "its share of the frames; with a recogniser too, coloured by the character that its frames most often carry.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .zip with a codebook, in its encoder or its head")
    parser.add_argument("manifest", nargs="?", metavar="MANIFEST", help="whose frames are counted")
    parser.add_argument("-o", "--out", required=True, metavar="FIGURE", help="the suffix says its format")
    parser.add_argument(
        "--aligner", metavar="BUNDLE", help="recogniser that says when the characters of `text` are said"
    )
    parser.add_argument(
        "--minutes", type=float, default=30.0, metavar="M", help="of audio, drawn at random (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of that draw (%(default)s)")
    add_bundle_arguments(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.acoustic_model import check_device
    from speechkit.bundle import load_bundle
    from speechkit.data.manifest import expand_path
    from speechkit.probing import map_codes
    from speechkit.probing.plot import plot_codes

    check_device(arguments.device)
    bundle = load_bundle(arguments.bundle, trusted_packages=arguments.trust)
    aligner = arguments.aligner and load_bundle(arguments.aligner, trusted_packages=arguments.trust)
    with tqdm(unit=" utterances", disable=not sys.stderr.isatty()) as bar:
        codes = map_codes(
            bundle,
            arguments.manifest and expand_path(arguments.manifest),
            aligner=aligner,
            minutes=arguments.minutes,
            seed=arguments.seed,
            device=arguments.device,
            on_progress=bar.update,
        )
    plot_codes(codes, arguments.out, title=Path(arguments.bundle).name)
    num_groups, num_codes, _ = codes.words.shape
    used = ""
    if codes.counts is not None and codes.perplexity is not None:
        values = ", ".join(f"{value:.1f}" for value in codes.perplexity)
        used = f", perplexity {values} over {int(codes.counts[0].sum())} frames of {codes.num_utterances} utterances"
    print(f"{arguments.out}: {num_groups} groups of {num_codes} codes{used}")
    for failure in codes.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if codes.failures else 0
