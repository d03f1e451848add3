"""`speechkit pretrain` and `speechkit finetune`: recipes and overrides -> a run folder with a bundle."""

import argparse
import os

_HELP = {
    "pretrain": "train an encoder on audio alone",
    "finetune": "train a recogniser on audio with text",
}


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help=_HELP[name],
        description=f"{_HELP[name].capitalize()}. Any key of the recipe can be given as key=value or --key value, "
        f"such as trainer.max_epochs=5. `speechkit configs list` names the recipes, --keys explains every key.",
    )
    parser.add_argument(
        "--config",
        action="append",
        metavar="NAME-or-FILE",
        help="a recipe; given again, later ones overlay earlier ones",
    )
    parser.add_argument("--out", metavar="DIR", help="run folder: config, logs, checkpoints, bundle")
    parser.add_argument(
        "--ckpt", metavar="FILE", help='go on from a checkpoint; "last" is that of --out, "auto" too if there is one'
    )
    parser.add_argument(
        "--checkpoint-every", type=int, default=200, metavar="STEPS", help="steps between checkpoints (%(default)s)"
    )
    parser.add_argument(
        "--keys",
        action="store_true",
        help="explain every key of a recipe (of pretraining, for the task of --config) and exit",
    )
    parser.set_defaults(run=_run, overrides=[])


def _run(arguments: argparse.Namespace) -> int:
    overrides = _joined(arguments.overrides)
    if arguments.keys:
        return _explain_keys(arguments.command, arguments.config or [], overrides)
    for name in ("config", "out"):
        if not getattr(arguments, name):
            raise ValueError(f"--{name} is required")
    if arguments.checkpoint_every < 1:
        raise ValueError(f"--checkpoint-every must be at least 1, got {arguments.checkpoint_every}")
    from speechkit.pipelines.finetune import finetune
    from speechkit.pipelines.pretrain import pretrain

    job = {"pretrain": pretrain, "finetune": finetune}[arguments.command]
    bundle = job(
        arguments.config,
        arguments.out,
        overrides,
        resume_from=arguments.ckpt,
        checkpoint_every_n_steps=arguments.checkpoint_every,
    )
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) > 0:
        return 0
    print(f"bundle: {bundle}")
    if arguments.command == "pretrain":
        print(f"next: speechkit finetune --config RECIPE --out DIR --model.encoder_from {bundle}")
    else:
        print(f"next: speechkit transcribe --model {bundle} FILE...")
    return 0


def _explain_keys(command: str, configs: list[str], overrides: list[str]) -> int:
    from speechkit.pipelines.pretrain import pretraining_task
    from speechkit.pipelines.training import parse
    from speechkit.tasks import Recognition

    parse(Recognition if command == "finetune" else pretraining_task(configs, overrides), [], ["--help"])
    return 0


def _joined(arguments: list[str]) -> list[str]:
    """`a.b=1`, `--a.b=1` and `--a.b 1` -> `a.b=1`."""
    joined: list[str] = []
    waiting = ""
    for argument in arguments:
        if waiting:
            joined.append(f"{waiting}={argument}")
            waiting = ""
        elif argument.startswith("--") and "=" not in argument:
            waiting = argument
        elif "=" in argument:
            joined.append(argument)
        else:
            raise ValueError(f"{argument}: an override must be key=value")
    if waiting:
        raise ValueError(f"{waiting}: an override must have a value")
    return joined
