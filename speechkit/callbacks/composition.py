"""The order in which callbacks act, whatever their order in a recipe, and which of them exclude each other.

A callback says so by class attributes, which are read here and nowhere else:

    order = Order.MASK       its place among the others
    exclusive = ("targets",) what no other callback that names it too may touch

Both may be left out. docs/callbacks/README.md has the table.
"""

from collections.abc import Sequence
from enum import IntEnum

import lightning


class Order(IntEnum):
    """Kinds of callbacks, in the order in which they act in a training step; numbers leave room between them."""

    SEED = 0  # seeds the generators, before anything draws
    PARAMETERS = 5  # gives the task parameters of its own while it trains, before an average copies it
    AVERAGE = 10  # averages the weights; copies the task before others attach anything to it
    BATCH = 20  # chooses the utterances and texts of a batch, or adds to them
    MIX = 30  # mixes the features and texts of several utterances
    WARP = 40  # moves features along time or frequency
    FILTER = 50  # filters features, as another channel does
    NOISE = 55  # adds noise to features
    MASK = 60  # removes spans of features
    HIDDEN = 70  # acts inside the encoder
    LOSS = 80  # changes the loss or adds terms to it
    GRADIENT = 90  # changes gradients and learning rates, and how gradients are computed
    WATCH = 100  # measures, and changes nothing


class CleanedUp(lightning.Callback):
    """A callback whose `teardown` also follows an exception, after which Lightning calls none: a notebook goes on."""

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")


def compose(callbacks: Sequence[lightning.Callback]) -> list[lightning.Callback]:
    """The same callbacks in the order in which they have to act.

    Lightning calls callbacks, and torch calls hooks, in the order of this list. Those with an `order` are sorted by it,
    and by their names where it is the same, among the places that they hold together; one without it keeps its place
    in the list. Only what seeds the step comes before all.

    Args:
        callbacks: of a trainer.

    Raises:
        ValueError: two that name the same in `exclusive`.
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
        name = type(callback).__name__
        for what in getattr(callback, "exclusive", ()):
            if what in first:
                pair = f"{first[what]} and {name}" if first[what] != name else f"two {name}"
                raise ValueError(f"`trainer.callbacks` must hold one callback for the {what}, got {pair}.")
            first[what] = name
