"""Pretraining: audio alone -> the bundle of an encoder."""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning

from speechkit.pipelines.recipes import find_recipe, read_recipe
from speechkit.pipelines.training import train
from speechkit.tasks import ContrastivePretraining


def pretrain(
    configs: Sequence[str],
    out: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    resume_from: str | None = None,
    checkpoint_every_n_steps: int = 200,
) -> Path:
    """Trains the task that the recipes name; arguments as in `speechkit.pipelines.training.train`.

    Returns:
        The bundle's folder.
    """
    return train(
        pretraining_task(configs, overrides),
        configs,
        out,
        overrides,
        command="pretrain",
        resume_from=resume_from,
        checkpoint_every_n_steps=checkpoint_every_n_steps,
    )


def pretraining_task(configs: Sequence[str], overrides: Sequence[str] = ()) -> type[Any]:
    """The class that the key `task` of the recipes names, the last one winning; `ContrastivePretraining` if none does.

    Raises:
        ValueError: the key names no task for pretraining.
    """
    named = [read_recipe(find_recipe(name, "pretrain")).get("task") for name in configs]
    named += [item.split("=", 1)[1] for item in overrides if item.removeprefix("--").startswith("task=")]
    path = next((name for name in reversed(named) if name is not None), None)
    if path is None:
        return ContrastivePretraining
    module, _, name = str(path).rpartition(".")
    try:
        task = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ValueError(f"`task` must name a class as package.Class, got {path!r}") from None
    if not (isinstance(task, type) and issubclass(task, lightning.LightningModule) and hasattr(task, "monitor")):
        raise ValueError(f"`task` must name a LightningModule for pretraining, got {path!r}")
    return task
