"""Distillation from the float model: the quantized one is drawn to its logits as well as to the labels."""

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks.distillation import frame_divergences
from speechkit.callbacks.loss_term import LossTerm
from speechkit.masking import length_mask


class FloatTeacher(LossTerm):
    """Adds `weight` times the distance to the float encoder and head, which read the same features, in training.

    `Distillation` has a teacher of its own and hears waveforms; this one is the network that is quantized, so it sees
    whatever callbacks make of the features, and all of its frames count.

    Args:
        weight: nats of loss per nat of divergence.
        temperature: of both distributions, above 0.

    Raises:
        ValueError: an argument out of its range; when a training starts, a task that was not made from a float bundle.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(weight)
        if not 0.0 < temperature < float("inf"):
            raise ValueError(f"`temperature` must be positive and finite, got {temperature}.")
        self.temperature = temperature
        self._parts: list[Any] = []  # encoder and head of the teacher
        self._teacher_logits: Tensor | None = None  # (B, T, V) of the batch at hand

    def prepare(self, trainer: lightning.Trainer, task: Any) -> None:
        if not hasattr(task, "parts"):
            raise ValueError(f"FloatTeacher needs a task made from a float bundle, got {type(task).__name__}.")
        parts = (task.parts.bundle.encoder, task.parts.bundle.head)
        self._parts = [part.eval().requires_grad_(False).to(trainer.strategy.root_device) for part in parts]

    def attach(self, loss: Any) -> list[RemovableHandle]:
        return [*super().attach(loss), self._task.encoder.register_forward_hook(self._listen)]

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._parts, self._teacher_logits = [], None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._teacher_logits = None

    def _listen(self, module: nn.Module, args: tuple[Tensor, Tensor], output: Any) -> None:
        if not module.training or self._teacher_logits is not None:  # only the plain pass of a step is distilled
            return
        with torch.no_grad():
            encoder, head = self._parts
            self._teacher_logits, _ = head(*encoder(*args))

    def term(self, logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """(B,) the mean divergence over frames."""
        assert self._teacher_logits is not None
        frames = length_mask(input_lengths, logits.shape[1])
        return frame_divergences(logits, self._teacher_logits.to(logits), frames, self.temperature)
