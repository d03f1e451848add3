"""`speechkit export c BUNDLE OUT`: an int8 recogniser for firmware."""

import argparse

from speechkit.cli.bundle_arguments import add_bundle_arguments

_AUDIO_SECONDS = 10.0


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(name, help="an int8 bundle for where there is no Python")
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    c = formats.add_parser(
        "c",
        help="C99 source: front end, network, greedy CTC, weights, reference vectors, Makefile",
        description="Writes a folder for firmware; its README.md says how to compile, check and call it. "
        "Prints what every layer costs.",
    )
    c.add_argument("bundle", metavar="BUNDLE", help="int8 bundle (speechkit quantize), folder or .zip")
    c.add_argument("out", metavar="OUT", help="folder")
    c.add_argument(
        "--audio",
        metavar="FILE",
        help=f"reference vectors of its first {_AUDIO_SECONDS:g} s, not of a synthetic signal",
    )
    c.add_argument("--overwrite", action="store_true", help="write into a folder that holds something")
    add_bundle_arguments(c, device=False)
    c.set_defaults(run=_export_c)


def _export_c(arguments: argparse.Namespace) -> int:
    from speechkit.audio import load_audio
    from speechkit.export import FirmwareFrontEnd, export_recognizer
    from speechkit.integer_bundle import load_integer_bundle

    bundle = load_integer_bundle(arguments.bundle, trusted_packages=arguments.trust)
    domain = bundle.network.domain
    front_end = FirmwareFrontEnd(bundle.tables, bundle.sample_rate_hz, domain.scale, domain.zero_point)
    samples = None
    if arguments.audio is not None:
        samples = load_audio(arguments.audio, bundle.sample_rate_hz, duration_seconds=_AUDIO_SECONDS)
    result = export_recognizer(
        front_end, bundle.network, bundle.tokenizer, arguments.out, samples, overwrite=arguments.overwrite
    )
    print(result.table())
    if bundle.language_model:
        print("the bundle's language model stays behind: firmware decodes greedily")
    print(f"{arguments.out}: {result.front_end.num_frames} frames of reference vectors; heard: {result.text!r}")
    return 0
