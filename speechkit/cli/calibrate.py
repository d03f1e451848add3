"""`speechkit calibrate BUNDLE MANIFEST`: confidences that can be believed."""

import argparse
import sys

from speechkit.cli.bundle_arguments import add_bundle_arguments


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name,
        help="make a bundle's confidences agree with how often it is right",
        description="Fits one temperature on a development set (never the training set, whose words a model knows too "
        "well) and writes it into the bundle. The text that is heard stays the same.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .zip")
    parser.add_argument("manifest", metavar="MANIFEST", help="recordings with `text`")
    parser.add_argument("--dry-run", action="store_true", help="say what was found and write nothing")
    add_bundle_arguments(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.bundle_files import update_decoding
    from speechkit.data.manifest import expand_path
    from speechkit.pipelines.calibrate import calibrate
    from speechkit.recognizer import Recognizer

    recognizer = Recognizer.load(arguments.bundle, device=arguments.device, trusted_packages=arguments.trust)
    with tqdm(unit=" s audio", disable=not sys.stderr.isatty()) as bar:
        found = calibrate(recognizer, expand_path(arguments.manifest), on_progress=bar.update)
    print(f"{found.num_words} words heard, {found.num_right} right")
    print(
        f"expected calibration error {found.error_before:.3f} at temperature {recognizer.temperature:.3g}, "
        f"{found.error_after:.3f} at {found.temperature:.3g}"
    )
    if not arguments.dry_run:
        update_decoding(arguments.bundle, {"temperature": round(found.temperature, 4)})
        print(f"written into {arguments.bundle}")
    return 0
