"""`speechkit import`: another toolkit's model -> a bundle."""

import argparse
from pathlib import Path


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="another toolkit's model -> a bundle",
        description="Writes a bundle that fine-tuning (model.encoder_from) and further pretraining (model.start_from) "
        "begin with.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    wav2vec2 = kinds.add_parser("wav2vec2", help="a wav2vec 2.0 checkpoint in the format of Hugging Face")
    wav2vec2.add_argument("source", metavar="SRC", help="folder, or name on the Hugging Face hub")
    wav2vec2.add_argument("out", metavar="OUT", help="the bundle to write (a folder, or .zip)")
    wav2vec2.set_defaults(run=_wav2vec2)


def _wav2vec2(arguments: argparse.Namespace) -> int:
    from speechkit.bundle import save_bundle
    from speechkit.pretrained import import_wav2vec2

    if Path(arguments.out).exists():
        raise ValueError(f"{arguments.out}: is there already; name another bundle")
    bundle = import_wav2vec2(arguments.source)
    save_bundle(bundle, arguments.out)
    print(f"bundle: {arguments.out}")
    if bundle.head is None:
        print("note: the checkpoint has no quantizer, so the bundle has no head and serves fine-tuning only")
    return 0
