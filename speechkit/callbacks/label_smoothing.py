"""Label smoothing for CTC: part of the loss pulls every frame's distribution towards the uniform one."""

from typing import Any

import lightning
from torch import nn
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks.composition import Order


class LabelSmoothing(lightning.Callback):
    """Passes `label_smoothing` to the seam `loss` while training (Kim et al. 2018, arXiv 1711.10212).

    The uniform term is a sum over frames, and a task divides an utterance's loss by its labels: where labels are
    sparse (words), a hundredth is already much.

    Args:
        smoothing: weight of the uniform distribution, in [0, 1).

    Raises:
        ValueError: a weight outside its range.
    """

    order = Order.LOSS

    def __init__(self, smoothing: float = 0.01) -> None:
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"`smoothing` must lie in [0, 1), got {smoothing}.")
        self.smoothing = smoothing
        self._handle: RemovableHandle | None = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(getattr(pl_module, "loss", None), nn.Module):
            raise ValueError(f"LabelSmoothing needs a task with a `loss`, {type(pl_module).__name__} has none.")
        self._handle = pl_module.loss.register_forward_pre_hook(
            lambda module, args, kwargs: self._add_smoothing(pl_module, args, kwargs), with_kwargs=True
        )

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _add_smoothing(
        self, pl_module: lightning.LightningModule, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (args, {**kwargs, "label_smoothing": self.smoothing}) if pl_module.training else (args, kwargs)
