"""`speechkit features export|plot`: a front end for firmware, and a look at one."""

import argparse
from pathlib import Path

from speechkit.cli.bundle_arguments import add_bundle_arguments

_AUDIO_SECONDS = 10.0


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name, help="export a front end for firmware, plot features", description="Front ends by themselves."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser(
        "export",
        help="a model's front end in integers: C99 source, tables, reference vectors",
        description="Writes a folder for firmware; its README.md says how to compile, check and call the front end.",
    )
    export.add_argument("bundle", metavar="BUNDLE", help="folder or .zip")
    export.add_argument("out", metavar="OUT", help="folder")
    export.add_argument(
        "--audio",
        metavar="FILE",
        help=f"reference vectors of its first {_AUDIO_SECONDS:g} s, not of a synthetic signal",
    )
    export.add_argument("--overwrite", action="store_true", help="write into a folder that holds something")
    export.set_defaults(run=_export)
    plot = actions.add_parser(
        "plot",
        help="waveform, MFB, MFCC, int8 codes and quantization error of a recording",
        description="Writes a figure. Without --model the features are Kaldi's MFB, normalised over the recording.",
    )
    plot.add_argument("file", metavar="FILE")
    plot.add_argument("--out", metavar="FIGURE", help="(FILE's stem + .features.png, in the current folder)")
    plot.add_argument("--model", metavar="BUNDLE", help="folder or .zip: take its front end")
    plot.add_argument("--seconds", type=float, default=30.0, metavar="S", help="at most so much of it (%(default)s)")
    plot.set_defaults(run=_plot)
    for action in (export, plot):
        add_bundle_arguments(action, device=False)


def _export(arguments: argparse.Namespace) -> int:
    from speechkit.audio import load_audio
    from speechkit.bundle import load_bundle
    from speechkit.export import export_front_end
    from speechkit.features import as_quantized_front_end

    loaded = load_bundle(arguments.bundle, trusted_packages=arguments.trust).front_end
    front_end = as_quantized_front_end(loaded)
    samples = None
    if arguments.audio is not None:
        samples = load_audio(arguments.audio, front_end.sample_rate_hz, duration_seconds=_AUDIO_SECONDS)
    result = export_front_end(front_end, arguments.out, samples, overwrite=arguments.overwrite)
    if front_end is not loaded:
        print("the bundle's front end has no domain of its own: the default one is taken")
    print(f"codes are int8, r = S (q - Z), S = {front_end.qparams.scale:g}, Z = {front_end.qparams.zero_point}")
    if front_end.cmvn is None:
        print("no CMVN: most codes may be clipped; train with GlobalCMVN")
    clipped = "" if samples is None else f", {result.clipped_share:.2%} of their codes clipped"
    print(f"{arguments.out}: {result.num_frames} frames of reference vectors{clipped}")
    print(result.cost)
    return 0


def _plot(arguments: argparse.Namespace) -> int:
    import torch

    from speechkit.audio import load_audio, read_audio_info
    from speechkit.bundle import load_bundle
    from speechkit.features.plot import file_front_end, plot_features

    if not arguments.seconds > 0:
        raise ValueError(f"`--seconds` must be positive, got {arguments.seconds:g}.")
    info = read_audio_info(arguments.file)
    front_end = None
    if arguments.model is not None:
        front_end = load_bundle(arguments.model, trusted_packages=arguments.trust).front_end
    rate = min(info.sample_rate_hz, 16000) if front_end is None else front_end.sample_rate_hz
    waveform = torch.from_numpy(load_audio(arguments.file, rate, duration_seconds=arguments.seconds))
    title = f"{Path(arguments.file).name}, {info.sample_rate_hz} Hz"
    if rate != info.sample_rate_hz:
        title += f", here at {rate} Hz"
    if info.duration_seconds > arguments.seconds:
        title += f", first {arguments.seconds:g} of {info.duration_seconds:.1f} s"
    out = arguments.out or f"{Path(arguments.file).stem}.features.png"
    quantized = plot_features(waveform, front_end or file_front_end(waveform, rate), out, title=title)
    print(f"{out}: quantization: {quantized}")
    return 0
