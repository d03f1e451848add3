"""`speechkit quantize BUNDLE --calibration MANIFEST [--qat RECIPE] -o OUT`: from float to int8."""

import argparse
import sys
from pathlib import Path

from speechkit.cli.bundle_arguments import add_bundle_arguments

_PICTURES = (".png", ".svg", ".pdf")


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="a float bundle to an int8 bundle that runs without torch",
        description="Quantizes a recogniser of separable convolutions: by calibration alone (post-training), or with "
        "training that knows the rounding. The bundle runs under ONNX Runtime, in numpy and in C, with the same codes.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .zip of a float recogniser")
    parser.add_argument(
        "--calibration",
        required=True,
        metavar="MANIFEST",
        help="some minutes of recordings like those to come; never a test set",
    )
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the int8 bundle: folder or .zip")
    parser.add_argument("--qat", metavar="RECIPE", help="train with quantization by this recipe, such as digits")
    parser.add_argument(
        "--ckpt",
        metavar="FILE",
        help='go on with --qat from a checkpoint; "last" is that of OUT.run, "auto" too if there is one',
    )
    parser.add_argument(
        "--weight-bits",
        type=int,
        default=8,
        metavar="N",
        help="of the weights, 2 to 8; of 4 or fewer two stand in a byte of the ONNX file (%(default)s)",
    )
    parser.add_argument(
        "--float-layers", nargs="+", default=[], metavar="NAME", help="layers whose weights stay in float"
    )
    parser.add_argument(
        "--table", action="store_true", help="print every domain, its clipping, and what each layer costs"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the same (.png, .svg)")
    add_bundle_arguments(parser, device=False)
    parser.set_defaults(run=_run, overrides=[])


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.data.manifest import expand_path, read_utterances
    from speechkit.pipelines.quantize import measure, quantize

    if arguments.overrides and arguments.qat is None:
        raise ValueError(f"unrecognized arguments without --qat: {' '.join(arguments.overrides)}")
    if arguments.ckpt is not None and arguments.qat is None:
        raise ValueError("--ckpt is for a training, and --qat names none")
    if arguments.plot and Path(arguments.plot).suffix not in _PICTURES:
        raise ValueError(f"--plot must end in {' or '.join(_PICTURES)}, got {arguments.plot}")
    calibration = expand_path(arguments.calibration)
    with tqdm(unit=" s audio", disable=not sys.stderr.isatty()) as bar:
        parts = quantize(
            arguments.bundle,
            calibration,
            arguments.out,
            weight_bits=arguments.weight_bits,
            float_layers=arguments.float_layers,
            recipe=arguments.qat,
            overrides=arguments.overrides,
            resume_from=arguments.ckpt,
            trusted_packages=arguments.trust,
            on_progress=bar.update,
        )
    network = parts.network.to_integer()
    print(
        f"{len(network.layers)} layers, {network.weight_bytes()} bytes of weights, "
        f"{network.multiply_adds()} multiply-adds for a frame of {network.stride} input frames"
    )
    if arguments.table or arguments.plot:
        from speechkit.quantization.sensitivity import layer_table, plot_layers

        rows = measure(parts, read_utterances(calibration))
        if arguments.table:
            print(layer_table(rows))
        if arguments.plot:
            plot_layers(rows, arguments.plot)
    print(f"written to {arguments.out}")
    return 0
