"""`speechkit import-hf` and `speechkit import-torchaudio`: another toolkit's model -> a bundle."""

import argparse
from pathlib import Path

_HELP = {
    "import-hf": "a wav2vec 2.0 or HuBERT of Hugging Face -> a bundle",
    "import-torchaudio": "a wav2vec 2.0 or HuBERT of torchaudio -> a bundle",
}
_SOURCE = {
    "import-hf": "folder, or name on the Hugging Face hub",
    "import-torchaudio": "name of a torchaudio pipeline, such as WAV2VEC2_ASR_BASE_960H",
}


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help=_HELP[name],
        description="A model with a CTC head becomes a recogniser; another one an encoder that fine-tuning "
        "(model.encoder_from) and, where it has a head for it, further pretraining (model.start_from) begin with.",
    )
    parser.add_argument("source", metavar="SRC", help=_SOURCE[name])
    parser.add_argument("out", metavar="OUT", help="the bundle to write (a folder, or .zip)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from speechkit.bundle import save_bundle
    from speechkit.pretrained import import_hf, import_torchaudio_pipeline

    if Path(arguments.out).exists():
        raise ValueError(f"{arguments.out}: is there already; name another bundle")
    take = import_hf if arguments.command == "import-hf" else import_torchaudio_pipeline
    bundle = take(arguments.source)
    save_bundle(bundle, arguments.out)
    print(f"bundle: {arguments.out}")
    if bundle.head is None:
        print("note: the model has no head, so the bundle serves fine-tuning only")
    return 0
