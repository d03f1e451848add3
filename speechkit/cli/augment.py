"""`speechkit augment preview`: what the augmentation of a recipe does to utterances."""

import argparse


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name, help="see and hear what a recipe's augmentation does", description="A look at augmentation."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    preview = actions.add_parser(
        "preview",
        help="utterances before and after each step",
        description="Takes the first utterances of a manifest, as one batch, through the first training step of a "
        "recipe. Writes a figure of each, and the audio behind each waveform perturbation.",
    )
    preview.add_argument("manifest", metavar="MANIFEST")
    preview.add_argument(
        "--config", action="append", required=True, metavar="NAME-or-FILE", help="a recipe; later ones overlay"
    )
    preview.add_argument("--utterances", type=int, default=2, metavar="N", help="how many (%(default)s)")
    preview.add_argument("-o", "--out", required=True, metavar="DIR")
    preview.set_defaults(run=_preview)


def _preview(arguments: argparse.Namespace) -> int:
    from speechkit.pipelines.preview import preview, save_preview

    steps, sample_rate_hz = preview(arguments.manifest, arguments.config, num_utterances=arguments.utterances)
    for name, of_utterance in steps.items():
        print(f"{name}: {', '.join(step.name for step in of_utterance)}")
    for path in save_preview(steps, sample_rate_hz, arguments.out):
        print(path)
    return 0
