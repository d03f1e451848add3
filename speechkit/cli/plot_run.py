"""`speechkit plot-run RUN`: how a training went."""

import argparse
from pathlib import Path


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="loss, accuracy, perplexity and probes over the steps of a run",
        description="Draws what the logs of a run folder hold, of all its starts together.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="what --out of pretrain or finetune named")
    parser.add_argument("--out", metavar="FIGURE", help="(RUN/run.png)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from speechkit.probing.plot import plot_run

    out = arguments.out or str(Path(arguments.run_folder) / "run.png")
    drawn = plot_run(arguments.run_folder, out)
    print(f"{out}: {', '.join(drawn)}")
    return 0
