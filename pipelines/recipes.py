"""Finds recipes: by name among those that come with speechkit, or by file."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

OVERLAY = "overlay"


def recipe_folder() -> Path:
    """Where the shipped recipes lie, one subfolder a command."""
    return Path(str(files("speechkit.configs")))


def list_recipes() -> dict[str, list[Path]]:
    """Command ("pretrain", "finetune") -> its recipes; "overlay" -> what is laid over one."""
    folders = sorted(folder for folder in recipe_folder().iterdir() if folder.is_dir() and any(folder.glob("*.yaml")))
    return {folder.name: sorted(folder.glob("*.yaml")) for folder in folders}


def find_recipe(name: str, command: str | None = None, *, option: str = "--config") -> Path:
    """A file as it is, or the recipe of that name.

    Args:
        name: of a file or a recipe.
        command: whose recipes are looked through, and what is laid over those of training; all if none.
        option: by which it was asked for, for messages.

    Raises:
        ValueError: neither a file nor a recipe; the message lists the recipes.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise ValueError(f"{option} {name}: no such file")
        return Path(name)
    recipes = list_recipes()
    wanted = recipes if command is None else [command, *([OVERLAY] if command in ("pretrain", "finetune") else [])]
    candidates = [path for key, paths in recipes.items() if key in wanted for path in paths]
    for path in candidates:
        if path.stem == name:
            return path
    known = ", ".join(path.stem for path in candidates)
    raise ValueError(f"{option} {name}: no such recipe; there are: {known}")


def read_recipe(path: Path) -> dict[str, Any]:
    """The content of a recipe.

    Raises:
        ValueError: not YAML, or not a mapping; the message names the file.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: must be YAML ({' '.join(str(error).split())})") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"--config {path}: must map keys to values, got {type(recipe).__name__}")
    return recipe


def recipe_summary(path: Path) -> str:
    """The comment on a recipe's first line."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
