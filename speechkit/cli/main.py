"""`speechkit COMMAND ...`. Exit status 0: all done, 1: some inputs failed, 2: a wrong call."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

import speechkit
from speechkit.cli import (
    augment,
    calibrate,
    callbacks,
    configs,
    data,
    embed,
    evaluate,
    export,
    features,
    import_model,
    language_model,
    plot_codes,
    plot_run,
    probe,
    pseudo_label,
    quantize,
    train,
    transcribe,
)

_COMMANDS = {
    "data": data,
    "import-hf": import_model,
    "import-torchaudio": import_model,
    "configs": configs,
    "callbacks": callbacks,
    "augment": augment,
    "pretrain": train,
    "finetune": train,
    "plot-run": plot_run,
    "plot-codes": plot_codes,
    "probe": probe,
    "embed": embed,
    "evaluate": evaluate,
    "pseudo-label": pseudo_label,
    "calibrate": calibrate,
    "lm": language_model,
    "features": features,
    "export": export,
    "quantize": quantize,
    "transcribe": transcribe,
}

_EXTRAS = {  # which of them brings a package that a command imports where it needs it
    "export": ("onnx", "onnxscript"),
    "hub": ("huggingface_hub",),
    "plot": ("matplotlib",),
    "runtime": ("onnxruntime",),
    "train": (
        "jsonargparse",
        "lhotse",
        "librosa",
        "lightning",
        "numba",
        "rapidfuzz",
        "safetensors",
        "scipy",
        "sentencepiece",
        "tensorboard",
        "torch",
        "torchaudio",
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; every command has its own --help."""
    parser = argparse.ArgumentParser(
        prog="speechkit", description="From a folder of recordings to a recogniser that runs on a small device."
    )
    parser.add_argument("--version", action="version", version=f"speechkit {speechkit.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        module.add_arguments(commands, name)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; wrong input is one line on standard error."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not hasattr(arguments, "overrides"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    try:
        return arguments.run(arguments)
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, ImportError, OSError) as error:
        if os.environ.get("SPEECHKIT_TRACEBACK"):
            raise
        print(f"speechkit {arguments.command}: {_reason(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"interrupted {error}".rstrip(), file=sys.stderr)
        return 128 + int(getattr(error, "signal", signal.SIGINT))


def _reason(error: Exception) -> str:
    """The error's message, the file first; of a package that is not installed, how to install it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror.lower()}"
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if package in packages:
                return f"needs {package}, which is not installed: pip install 'speechkit[{extra}]'"
    return str(error)
