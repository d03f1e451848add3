"""`speechkit configs list|show|copy`: the recipes that come with speechkit."""

import argparse
from pathlib import Path


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(name, help="list, show or copy the recipes", description="The shipped recipes.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="a line each").set_defaults(run=_list)
    show = actions.add_parser("show", help="print one")
    show.add_argument("name")
    show.set_defaults(run=_show)
    copy = actions.add_parser("copy", help="copy one to edit it")
    copy.add_argument("name")
    copy.add_argument("target", help="file or folder")
    copy.set_defaults(run=_copy)


def _list(arguments: argparse.Namespace) -> int:
    from speechkit.pipelines.recipes import list_recipes, recipe_summary

    for command, paths in list_recipes().items():
        for path in paths:
            print(f"{command:<9} {path.stem:<18} {recipe_summary(path)}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from speechkit.pipelines.recipes import find_recipe

    print(find_recipe(arguments.name).read_text(encoding="utf-8"), end="")
    return 0


def _copy(arguments: argparse.Namespace) -> int:
    from speechkit.pipelines.recipes import find_recipe

    source, target = find_recipe(arguments.name), Path(arguments.target)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise ValueError(f"{target}: exists already, and is not overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    print(target)
    return 0
