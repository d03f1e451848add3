"""`speechkit export`: a bundle as C source for firmware, or as an ONNX graph."""

import argparse
from pathlib import Path

from speechkit.cli.bundle_arguments import add_bundle_arguments

_AUDIO_SECONDS = 10.0


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(name, help="a bundle for where there is no Python: C source or an ONNX graph")
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
    c.add_argument(
        "--pack-weights",
        action="store_true",
        help="two to a byte, where quantize had --weight-bits 4: half the flash, about twice the time",
    )
    c.add_argument("--overwrite", action="store_true", help="write into a folder that holds something")
    add_bundle_arguments(c, device=False)
    c.set_defaults(run=_export_c)
    onnx = formats.add_parser(
        "onnx",
        help="one ONNX graph, from samples to logits",
        description="Writes a graph of standard operators. Of an int8 bundle it has the same integers, front end and "
        "all; of a float bundle it takes one utterance at a time, and is run once and held against torch.",
    )
    onnx.add_argument("bundle", metavar="BUNDLE", help="float or int8, folder or .zip")
    onnx.add_argument("out", metavar="OUT", help="file ending in .onnx")
    onnx.add_argument(
        "--input",
        choices=("waveform", "features", "codes"),
        default="waveform",
        help="what the graph reads: samples in [-1, 1], the front end's features, or, of an int8 bundle, its codes "
        "(%(default)s)",
    )
    onnx.add_argument(
        "--codes",
        choices=("uint8", "int8"),
        help="type of the activations of an int8 bundle: uint8 for x86 and ONNX Runtime, int8 where a compiler for "
        "ARM or an NPU asks for it (uint8)",
    )
    onnx.add_argument(
        "--int8-weights",
        action="store_true",
        help="of a float bundle: 8 bits for the weights of matrix products (transformers), convolutions in float",
    )
    add_bundle_arguments(onnx, device=False)
    onnx.set_defaults(run=_export_onnx)


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
        front_end,
        bundle.network,
        bundle.tokenizer,
        arguments.out,
        samples,
        pack_weights=arguments.pack_weights,
        overwrite=arguments.overwrite,
    )
    print(result.table())
    if bundle.language_model:
        print("the bundle's language model stays behind: firmware decodes greedily")
    print(f"{arguments.out}: {result.front_end.num_frames} frames of reference vectors; heard: {result.text!r}")
    return 0


def _export_onnx(arguments: argparse.Namespace) -> int:
    from speechkit.bundle_files import holds_integers, read_bundle_files

    if Path(arguments.out).suffix != ".onnx":
        raise ValueError(f"OUT must end in .onnx, got {arguments.out!r}.")
    files = read_bundle_files(arguments.bundle)
    if holds_integers(files):
        if arguments.int8_weights:
            raise ValueError(f"--int8-weights is for float bundles; {arguments.bundle} is in int8 already.")
        return _export_integers(arguments)
    for option, value in (("--input codes", arguments.input == "codes"), ("--codes", arguments.codes)):
        if value:
            raise ValueError(f"{option} is for int8 bundles; {arguments.bundle} is a float one.")
    from speechkit.bundle import load_bundle
    from speechkit.export.onnx_model import export_model

    bundle = load_bundle(arguments.bundle, trusted_packages=arguments.trust)
    model = export_model(bundle, arguments.out, input_name=arguments.input, int8_weights=arguments.int8_weights)
    print(
        f"{arguments.out}: {arguments.input} -> {model.output_name}, {model.num_bytes / 1e6:.2f} MB; against torch at "
        f"most {model.largest_difference:.1e} apart, where the largest is {model.largest_output:.1f}"
    )
    return 0


def _export_integers(arguments: argparse.Namespace) -> int:
    from speechkit.export.onnx_graph import recognizer_metadata
    from speechkit.export.onnx_network import export_network
    from speechkit.integer_bundle import load_integer_bundle

    bundle = load_integer_bundle(arguments.bundle, trusted_packages=arguments.trust)
    code_type = arguments.codes or "uint8"
    export_network(
        bundle.network,
        arguments.out,
        input_name=arguments.input,
        code_type=code_type,
        tables=bundle.tables,
        metadata=recognizer_metadata(bundle.sample_rate_hz, bundle.tokenizer),
    )
    size = Path(arguments.out).stat().st_size
    print(f"{arguments.out}: {arguments.input} -> logits, activations in {code_type}, {size / 1e6:.2f} MB")
    return 0
