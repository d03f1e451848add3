"""What plug-ins that add a term to the loss have in common: a forward hook on the seam `loss`."""

import math
from abc import abstractmethod
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks.composition import CleanedUp, Order
from speechkit.losses import ctc_feasible


class LossTerm(CleanedUp):
    """Adds `weight` times a term to the losses (B,) of the seam `loss` while the task trains.

    The losses are in nats per label. Terms, unless they say otherwise, are means within an utterance too, over its
    frames, labels or words: so a weight means the same for words as for characters, which have more labels a second.
    Of several plug-ins the terms add up, in whatever order they are listed. An utterance without an alignment keeps its
    loss of 0, and so does a filler. A weight of 0 attaches nothing: the training is the same, bit for bit.

    Args:
        weight: of the term.

    Raises:
        ValueError: a weight that is negative or not finite; when a training starts, a task that has no `loss` or no
            `tokenizer`.
    """

    order = Order.LOSS

    def __init__(self, weight: float) -> None:
        if not 0.0 <= weight < math.inf:
            raise ValueError(f"`weight` must be finite and not negative, got {weight}.")
        self.weight = weight
        self._task: Any = None
        self._batch: Any = None
        self._handles: list[RemovableHandle] = []

    @abstractmethod
    def term(self, logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """What the loss was given -> the term (B,). Logits (B, T, V) are in single precision at least."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit" or self.weight == 0.0:
            return
        for name in ("loss", "tokenizer"):
            if getattr(pl_module, name, None) is None:
                needed = f"{type(self).__name__} needs a task with a `{name}`"
                raise ValueError(f"{needed}, {type(pl_module).__name__} has none.")
        self.prepare(trainer, pl_module)
        self._task = pl_module
        self._handles = self.attach(pl_module.loss)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._task, self._batch = [], None, None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def prepare(self, trainer: lightning.Trainer, task: Any) -> None:
        """What a plug-in needs when a training starts. Raises ValueError where it cannot work."""

    def is_active(self) -> bool:
        """Whether the losses of this step get the term."""
        return bool(self._task.training)

    def attach(self, loss: Any) -> list[RemovableHandle]:
        """Sets the hooks."""
        return [loss.register_forward_hook(self._added, with_kwargs=True)]

    def _added(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], losses: Tensor) -> Tensor:
        return losses + self.weight * self._term(*args, **kwargs) if self.is_active() else losses

    def _term(
        self, logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, **options: Any
    ) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
            term = self.term(precise, targets, input_lengths, target_lengths)
        return term.where(ctc_feasible(targets, input_lengths, target_lengths), 0.0)
