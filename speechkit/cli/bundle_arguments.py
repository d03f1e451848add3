"""Options of whatever loads a bundle."""

import argparse


def add_bundle_arguments(parser: argparse.ArgumentParser, *, device: bool = True) -> None:
    """Where its modules run, and whose classes may be built."""
    if device:
        parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package in the bundle"
    )
