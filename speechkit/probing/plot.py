"""Figures: how a training went, from its run folder, and maps of frames and of code words in two dimensions."""

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechkit.probing.code_map import CodeMap
from speechkit.probing.probe import FrameSample

_PANELS = (  # title -> words in a metric's name, the first that fits
    ("probe", ("probe",)),
    ("perplexity", ("perplexity",)),
    ("loss", ("loss",)),
    ("accuracy", ("accuracy", "wer", "cer")),
    ("deviation of frames", ("_std",)),
    ("effective rank", ("_rank",)),
    ("score gap", ("gap",)),
    ("gradient norm", ("gradient_norm",)),
    ("learning rate", ("learning_rate",)),
)
_MOST_COLOURS = 20


def read_metrics(run: str | os.PathLike[str]) -> dict[str, list[tuple[int, float]]]:
    """What a run folder's CSV logs hold: metric -> (step, value) in order of steps; a resumed run wrote several files.

    Where a step was taken twice, the later start counts.

    Raises:
        ValueError: a folder without logs.
    """
    files = sorted(Path(run).glob("logs/*/metrics.csv"), key=lambda path: _start_of(path.parent.name))
    if not files:
        raise ValueError(
            f"{run}: holds no logs/*/metrics.csv; it must be a run folder of pretrain or finetune, "
            "and long enough to have logged something (every trainer.log_every_n_steps, 10)"
        )
    metrics: dict[str, dict[int, float]] = defaultdict(dict)
    for file in files:
        with file.open(newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                step = int(row.pop("step"))
                for name, value in row.items():
                    if value and name != "epoch":
                        metrics[name][step] = float(value)
    return {name: sorted(values.items()) for name, values in metrics.items()}


def plot_run(run: str | os.PathLike[str], path: str | os.PathLike[str]) -> list[str]:
    """Draws loss, accuracy, perplexity, probes and what `CollapseGuard` logs over steps, a panel each.

    Args:
        run: run folder.
        path: of the figure; the suffix says its format.

    Returns:
        The metrics that were drawn.

    Raises:
        ValueError: a folder without logs.
        ImportError: matplotlib is not installed.
    """
    panels: dict[str, list[str]] = defaultdict(list)
    metrics = read_metrics(run)
    for name in sorted(metrics):
        title = next((title for title, words in _PANELS if any(word in name for word in words)), None)
        if title is not None:
            panels[title].append(name)
    if not panels:
        raise ValueError(f"{run}: its logs hold no metric that is drawn, but {', '.join(sorted(metrics)) or 'none'}")
    titles = [title for title, _ in _PANELS if title in panels]
    figure = _figure((9.0, 2.2 * len(titles)))
    figure.suptitle(Path(run).name)
    axes = np.atleast_1d(figure.subplots(len(titles), 1, sharex=True))
    for axis, title in zip(axes, titles, strict=True):
        for name in panels[title]:
            steps, values = zip(*metrics[name], strict=True)
            axis.plot(steps, values, label=name, linewidth=1.0, marker="." if len(steps) < 30 else None)
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    _save(figure, path)
    return [name for title in titles for name in panels[title]]


def principal_components(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Standardised frames on their first two principal axes: (N, D) -> (N, 2), shares of the variance (2,)."""
    x = (frames - frames.mean(dim=0)) / frames.std(dim=0, correction=0).clamp(min=1e-6)
    _, values, axes = torch.linalg.svd(x, full_matrices=False)
    places = x @ axes[:2].T
    shares = values.square() / values.square().sum().clamp(min=1e-12)
    missing = 2 - places.shape[1]
    return torch.nn.functional.pad(places, (0, missing)), torch.nn.functional.pad(shares[:2], (0, missing))


def plot_map(sample: FrameSample, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draws frames on two principal axes, once coloured by what is said and once by who says it.

    Args:
        sample: of `probe`.
        path: of the figure; the suffix says its format.
        title: of the figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure((12.0, 6.0))
    places, shares = principal_components(sample.frames)
    figure.suptitle(f"{title}; axes hold {float(shares.sum()):.0%} of the variance")
    for axis, (name, groups) in zip(
        figure.subplots(1, 2), (("what is said", sample.labels), ("who says it", sample.speakers)), strict=True
    ):
        _scatter(axis, places.numpy(), groups)
        axis.set_title(name)
        axis.set(xticks=[], yticks=[])
    _save(figure, path)


def plot_codes(codes: CodeMap, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draws each group's code words on their two principal axes, a panel each.

    A dot's area is how often its code is chosen; a cross is a code that never is. Its colour is the label that its
    frames carry most often, where it is known, and else its group.

    Args:
        codes: of `map_codes`.
        path: of the figure; the suffix says its format.
        title: of the figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    num_groups, num_codes, _ = codes.words.shape
    figure = _figure((6.0 * num_groups, 6.0))
    figure.suptitle(title)
    for group, axis in enumerate(np.atleast_1d(figure.subplots(1, num_groups))):
        places, shares = principal_components(codes.words[group])
        counts = torch.ones(num_codes) if codes.counts is None else codes.counts[group]
        areas = (20.0 * num_codes * counts / counts.sum().clamp(min=1)).numpy()
        symbols = [None] * num_codes if codes.symbols is None else codes.symbols[group]
        unused, rest = (counts == 0).numpy(), f"C{group}" if codes.symbols is None else "0.6"
        _scatter(axis, places.numpy(), symbols, areas=areas, rest=rest)
        axis.scatter(*places.numpy()[unused].T, s=8, marker="x", linewidths=0.5, color="0.6")
        used = "" if codes.perplexity is None else f", perplexity {codes.perplexity[group]:.1f}"
        axis.set_title(f"group {group}: {num_codes} codes{used}; axes hold {float(shares.sum()):.0%}", fontsize=9)
        axis.set(xticks=[], yticks=[])
    _save(figure, path)


def _scatter(
    axis: Any, places: np.ndarray, groups: Sequence[str | None], *, areas: np.ndarray | None = None, rest: str = "0.85"
) -> None:
    """The most frequent groups have a colour each, the others that of the rest."""
    from matplotlib import colormaps

    members: dict[str | None, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    frequent = sorted(
        (group for group in members if group is not None), key=lambda group: (-len(members[group]), group)
    )
    coloured = set(frequent[:_MOST_COLOURS])
    areas = np.full(len(places), 4.0) if areas is None else areas
    others = [place for place, group in enumerate(groups) if group not in coloured]
    axis.scatter(*places[others].T, s=areas[others], color=rest)
    for number, group in enumerate(sorted(coloured)):
        colour, label = colormaps["tab20"](number), "space" if group == " " else group
        axis.scatter(*places[members[group]].T, s=areas[members[group]], color=colour, label=label)
    if coloured:
        for handle in axis.legend(fontsize=7, ncols=2, loc="best").legend_handles:
            handle.set_sizes([30])


def _start_of(name: str) -> tuple[int, str]:
    """logs/start-10 comes after logs/start-9."""
    number = name.rsplit("-", 1)[-1]
    return (int(number) if number.isdigit() else 0, name)


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("matplotlib is missing: pip install speechkit[plot]") from None
    return Figure(figsize=size, layout="constrained")


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, format=Path(path).suffix[1:] or "png")
