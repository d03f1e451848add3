"""Distillation from the float model: the quantized one is drawn to its logits as well as to the labels."""

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from speechkit.masking import mean_over_frames


def distillation_loss(logits: Tensor, teacher: Tensor, lengths: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student), a mean over frames, times temperature^2 (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        logits: (B, T, V) of the student.
        teacher: (B, T, V).
        lengths: (B,) frames.
        temperature: that both are divided by.

    Returns:
        (B,).
    """
    student_log_probs = (logits / temperature).log_softmax(dim=-1)
    teacher_log_probs = (teacher / temperature).log_softmax(dim=-1)
    divergence = (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(dim=-1)
    return temperature**2 * mean_over_frames(divergence, lengths)


class FloatTeacher(lightning.Callback):
    """Adds `distillation_loss` from the float encoder and head, on the same features, to the task's loss in training.

    Args:
        weight: of the distillation against CTC.
        temperature: of both distributions.

    Raises:
        ValueError: an argument out of its range, or a task that was not made from a float bundle.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 1.0) -> None:
        if not weight > 0 or not temperature > 0:
            raise ValueError(f"`weight` and `temperature` must be positive, got {weight} and {temperature}.")
        self.weight, self.temperature = weight, temperature
        self._handles: list[RemovableHandle] = []
        self._targets: Tensor | None = None  # the teacher's logits (B, T, V) of the batch at hand

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        task: Any = pl_module
        if not hasattr(task, "parts"):
            raise ValueError(f"FloatTeacher needs a task made from a float bundle, got {type(task).__name__}.")
        bundle = task.parts.bundle
        encoder, head = (part.to(task.device).eval().requires_grad_(False) for part in (bundle.encoder, bundle.head))

        def listen(module: nn.Module, args: tuple[Tensor, Tensor], output: Any) -> None:
            if module.training:
                with torch.no_grad():
                    self._targets, _ = head(*encoder(*args))

        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            if not task.training or self._targets is None:
                return output
            teacher, self._targets = self._targets, None
            return output + self.weight * distillation_loss(args[0], teacher, args[2], temperature=self.temperature)

        self._handles = [task.encoder.register_forward_hook(listen), task.loss.register_forward_hook(add)]

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
