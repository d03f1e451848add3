"""The order in which callbacks act, whatever their order in a recipe, and which of them exclude each other.

A callback says so by class attributes, which are read here and nowhere else:

    order = Order.MASK       its place among the others
    exclusive = "targets"    what no other callback of the same word may touch

Both may be left out. docs/callbacks/README.md has the table.
"""

from collections.abc import Sequence
from enum import IntEnum

import lightning


class Order(IntEnum):
    """Kinds of callbacks, by when they act in a training step: what is made of the batch, then of the features, ..."""

    SEED = 0  # seeds the step, before anything draws
    AVERAGE = 10  # averages the weights: copies the task before others attach anything to it
    BATCH = 20  # chooses what is in a batch, or adds to it
    MIX = 30  # mixes utterances with each other
    WARP = 40  # moves what is there along time or frequency
    FILTER = 50  # passes it through another channel
    NOISE = 55  # adds to it
    MASK = 60  # takes away from it
    HIDDEN = 70  # acts inside the encoder
    LOSS = 80  # changes the loss or adds terms to it
    GRADIENT = 90  # changes gradients, rates, and how they are computed
    WATCH = 100  # measures


def compose(callbacks: Sequence[lightning.Callback]) -> list[lightning.Callback]:
    """The same callbacks in the order in which they have to act.

    Lightning calls callbacks, and torch calls hooks, in the order of this list. Those with an `order` are sorted by it,
    and by their names where it is the same, among the places that they hold together; one without it keeps its place
    in the list. Only what seeds the step comes before all.

    Args:
        callbacks: of a trainer.

    Raises:
        ValueError: two with the same `exclusive`.
    """
    _refuse_rivals(callbacks)
    seeds = [callback for callback in callbacks if getattr(callback, "order", None) is Order.SEED]
    others = [callback for callback in callbacks if callback not in seeds]
    ordered = [callback for callback in others if hasattr(callback, "order")]
    following = iter(sorted(ordered, key=lambda callback: (callback.order, type(callback).__qualname__)))
    return [*seeds, *(next(following) if hasattr(callback, "order") else callback for callback in others)]


def _refuse_rivals(callbacks: Sequence[lightning.Callback]) -> None:
    first: dict[str, str] = {}
    for callback in callbacks:
        what, name = getattr(callback, "exclusive", None), type(callback).__name__
        if what is not None and what in first:
            pair = f"{first[what]} and {name}" if first[what] != name else f"two {name}"
            raise ValueError(f"`trainer.callbacks` must hold one callback for the {what}, got {pair}.")
        if what is not None:
            first[what] = name
