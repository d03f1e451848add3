"""Trains a pretrained encoder from the top down: what is nearest to the labels changes first, or alone."""

from collections.abc import Sequence
from typing import Any

import lightning
from torch import nn

from speechkit.callbacks.composition import CleanedUp, Order
from speechkit.encoders.normalization import MaskedBatchNorm1d


class GradualUnfreezing(CleanedUp):
    """Layers begin to learn one after another, the last first (Howard and Ruder 2018, arXiv 1801.06146).

    Of n layers the last begins after `fraction` / n of the training and the first after `fraction`. A layer that does
    not learn yet has no gradient for the optimizer, so neither moments nor weight decay touch it, and it does not count
    in gradient clipping; running statistics of batch normalisation stay as they are. What is not named learns from the
    start. A fraction of 1 freezes the first layer for good, and with one name all of it.

    Args:
        modules: names of submodules of the task, from the input to the output; an `nn.ModuleList` stands for each of
            its members.
        fraction: of the training, after which all of them learn.

    Raises:
        ValueError: a fraction outside (0, 1], or a name that the task lacks.
    """

    order = Order.GRADIENT

    def __init__(self, modules: Sequence[str] = ("encoder",), fraction: float = 0.3) -> None:
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"`fraction` must lie in (0, 1], got {fraction}.")
        self.modules, self.fraction = tuple(modules), fraction
        self._layers: list[nn.Module] = []

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._layers = []
        for name in self.modules:
            try:
                module = pl_module.get_submodule(name)
            except AttributeError:
                raise ValueError(f"`modules` must name submodules of the task, got {name!r}.") from None
            self._layers += list(module) if isinstance(module, nn.ModuleList) else [module]

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for layer in self._layers:
            _update_statistics(layer, True)
        self._layers = []

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        waiting = self._waiting(trainer)
        for layer in self._layers:
            _update_statistics(layer, not any(layer is other for other in waiting))

    def on_before_optimizer_step(self, trainer: lightning.Trainer, *args: Any) -> None:
        for layer in self._waiting(trainer):
            for parameter in layer.parameters():
                parameter.grad = None

    def _waiting(self, trainer: lightning.Trainer) -> list[nn.Module]:
        """The layers that do not learn yet."""
        progress, count = trainer.global_step / trainer.estimated_stepping_batches, len(self._layers)
        return [layer for place, layer in enumerate(self._layers) if progress < self.fraction * (count - place) / count]


def _update_statistics(layer: nn.Module, is_learning: bool) -> None:
    for norm in layer.modules():
        if isinstance(norm, MaskedBatchNorm1d):
            norm.update_running = is_learning
