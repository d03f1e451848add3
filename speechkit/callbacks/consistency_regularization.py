"""Consistency regularisation of CTC: two distorted views of a labelled utterance teach each other."""

from typing import Any

import lightning
from torch import Tensor, nn

from speechkit.callbacks.added_loss import AddedLoss
from speechkit.callbacks.spec_augment import refuse_time_warp
from speechkit.data import SpeechBatch
from speechkit.losses import frame_divergence
from speechkit.tasks import Recognition


class ConsistencyRegularization(AddedLoss):
    """Two views of each batch learn to agree (CR-CTC, Yao et al. 2024, arXiv 2410.05101).

    No recordings without text are needed. Each labelled batch passes the feature callbacks and the network twice, with
    other masks and dropout. The loss is the mean of both CTC losses and, times `weight`, half the sum of KL(b || a)
    and KL(a || b), each with its first side constant. The divergence is a sum over frames, over the number of labels,
    as CTC's loss is here: so `weight` is the paper's alpha. The paper masks 2.5 times as many frames as without. What
    other callbacks add to the loss they add once, to the first view; none may mix utterances, for the second view
    would be of one alone.

    Args:
        weight: alpha; 0 is off.

    Raises:
        ValueError: a negative weight; at start, another task than `Recognition`, or a `SpecAugment` that warps time.
    """

    exclusive = ("targets", "texts")

    def __init__(self, weight: float = 0.2) -> None:
        super().__init__(weight)

    def attach(self, trainer: lightning.Trainer, task: Recognition) -> None:
        refuse_time_warp(self, trainer)

        def keep_logits(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
            self._seen.setdefault("logits", output[0])

        def keep_losses(module: nn.Module, args: Any, kwargs: dict[str, Any], losses: Tensor) -> None:
            self._seen.setdefault("losses", losses)
            self._seen.setdefault("options", kwargs)

        self._handles += [
            task.head.register_forward_hook(keep_logits),
            task.loss.register_forward_hook(keep_losses, with_kwargs=True, prepend=True),  # before others add to it
        ]

    def added_loss(self, trainer: lightning.Trainer, task: Recognition, batch: SpeechBatch) -> Tensor:
        first_logits, first_losses = self._seen["logits"], self._seen["losses"]
        logits, frames = task(batch.waveform, batch.lengths)
        # not by calling the module, whose hooks have run
        losses = task.loss.forward(logits, batch.targets, frames, batch.target_lengths, **self._seen["options"])
        apart = frame_divergence(logits, first_logits, frames) + frame_divergence(first_logits, logits, frames)
        divergence = batch.loss_scale * (batch.weights * 0.5 * apart / batch.target_lengths.clamp(min=1)).sum()
        task.log("regularization_loss", divergence.detach(), batch_size=len(batch.ids), sync_dist=True)
        # the step has the first loss already
        half_of_each = 0.5 * batch.loss_scale * (batch.weights * (losses - first_losses)).sum()
        return half_of_each + self.weight * divergence
