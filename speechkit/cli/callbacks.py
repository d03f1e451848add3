"""`speechkit callbacks [NAME]`: what a recipe can switch on."""

import argparse


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="list the callbacks and waveform perturbations, or explain one",
        description="A line each, with its parameters; with NAME its help, and YAML that adds it to a recipe.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="such as SpecAugment")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from speechkit.pipelines.plug_ins import find_plug_in, list_plug_ins

    if arguments.name is not None:
        plug_in = find_plug_in(arguments.name)
        print(f"{plug_in.name}({plug_in.signature})\n\n{plug_in.help}\n\n{plug_in.overlay}")
        return 0
    for kind in ("callback", "perturbation"):
        print(f"{kind}s:")
        for plug_in in list_plug_ins():
            if plug_in.kind == kind:
                print(f"  {plug_in.name:<24} {plug_in.summary}")
                if plug_in.parameters:
                    print(f"  {'':<24} {plug_in.signature}")
    return 0
