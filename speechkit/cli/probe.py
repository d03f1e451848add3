"""`speechkit probe BUNDLE MANIFEST`: how good an encoder is without fine-tuning."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from speechkit.cli.bundle_arguments import add_bundle_arguments

if TYPE_CHECKING:
    from speechkit.probing import ABXScore, Probe, ProbeAccuracy


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="how good an encoder is without fine-tuning: linear probes and ABX",
        description="Linear probes of frozen frames for the speaker and for the characters that are said, the error "
        "rate of a linear CTC head, and the ABX error within and across speakers (chance is 50 %%).",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .zip, pretrained or fine-tuned")
    parser.add_argument("manifest", metavar="MANIFEST", help="with `speaker`, `text` or both")
    add_representation(parser, ("context", "latents", "features"))
    parser.add_argument(
        "--aligner", metavar="BUNDLE", help="recogniser that says when labels are said (a linear head fitted here)"
    )
    parser.add_argument(
        "--minutes", type=float, default=30.0, metavar="M", help="of audio, drawn at random (%(default)s)"
    )
    parser.add_argument("--triples", type=int, default=1000, metavar="N", help="of each ABX score (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here, as fractions")
    parser.add_argument("--plot", metavar="FIGURE", help="draw a map of frames, by what is said and by who says it")
    parser.set_defaults(run=_run)


def add_representation(parser: argparse.ArgumentParser, choices: tuple[str, ...]) -> None:
    """Arguments that `probe` and `embed` share: which frames, and where they are computed."""
    parser.add_argument("--what", choices=choices, default="context", help="which frames (%(default)s)")
    parser.add_argument(
        "--layer", type=int, metavar="N", help="a layer of the encoder, from 0 or, if negative, the end"
    )
    add_bundle_arguments(parser)


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.acoustic_model import check_device
    from speechkit.bundle import load_bundle
    from speechkit.data.manifest import expand_path
    from speechkit.encoders import receptive_field
    from speechkit.probing import probe
    from speechkit.probing.plot import plot_map

    check_device(arguments.device)
    bundle = load_bundle(arguments.bundle, trusted_packages=arguments.trust)
    aligner = arguments.aligner and load_bundle(arguments.aligner, trusted_packages=arguments.trust)
    what = arguments.what if arguments.layer is None else f"layer {arguments.layer}"
    print(f"{type(bundle.encoder).__name__}, {what}")
    if arguments.what != "features" and arguments.layer is None:
        field = receptive_field(bundle.encoder, arguments.what)
        print(field.describe(bundle.front_end.hop_seconds))
    with tqdm(unit=" utterances", disable=not sys.stderr.isatty()) as bar:
        result = probe(
            bundle.front_end,
            bundle.encoder,
            expand_path(arguments.manifest),
            what=arguments.what,
            layer=arguments.layer,
            aligner=aligner,
            minutes=arguments.minutes,
            num_triples=arguments.triples,
            seed=arguments.seed,
            device=arguments.device,
            on_progress=bar.update,
        )
    for line in _lines(result):
        print(line)
    for failure in result.failures:
        print(f"failed: {failure}", file=sys.stderr)
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.json).write_text(
            json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if arguments.plot:
        plot_map(result.sample, arguments.plot, title=f"{Path(arguments.bundle).name}, {what}")
        print(f"map: {arguments.plot}")
    return 1 if result.failures else 0


def _lines(result: "Probe") -> list[str]:
    lines = [f"{result.num_utterances} utterances, {result.seconds / 60:.1f} min"]
    for name, title, value in (
        ("speaker", "speaker of frames", result.speaker),
        ("label", f"{result.label_kind} of frames", result.label),
    ):
        lines.append(f"{title:<20} {_accuracy(value) if value else 'skipped: ' + result.skipped[name]}")
    if result.ctc_cer is not None:
        lines.append(f"{'linear CTC head':<20} CER {result.ctc_cer:.1%}")
    for name, title, score in (
        ("abx_within", "ABX within speakers", result.abx_within),
        ("abx_across", "ABX across speakers", result.abx_across),
    ):
        lines.append(f"{title:<20} {_error(score) if score else 'skipped: ' + result.skipped[name]}")
    return lines


def _accuracy(value: "ProbeAccuracy") -> str:
    return f"{value.accuracy:.1%} right of {value.num_classes} (chance {value.chance:.1%})"


def _error(score: "ABXScore") -> str:
    return f"error {score.error:.1%} of {score.num_triples} triples (chance 50 %)"
