"""Consistency training: on recordings without text, a distorted view must say what the plain one says."""

import math
from typing import Any

import lightning
import torch
from torch import Tensor

from speechkit.callbacks.added_loss import AddedLoss
from speechkit.callbacks.consistency_regularization import ConsistencyRegularization
from speechkit.callbacks.evaluation_mode import evaluation_mode
from speechkit.callbacks.mixup import Mixup
from speechkit.callbacks.spec_augment import refuse_time_warp
from speechkit.data import SpeechBatch, UnlabelledSpeech
from speechkit.losses import CTCLoss, frame_divergence
from speechkit.masking import mean_over_frames
from speechkit.tasks import Recognition

ANNEALINGS = ("none", "linear", "log", "exp")


def annealing_threshold(progress: float, num_classes: int, annealing: str) -> float:
    """How sure a model may be of a label for it to be taught still (Xie et al. 2019, section 2.3): from 1 / K to 1.

    Args:
        progress: share of the training that is done.
        num_classes: K.
        annealing: "linear", "log" (soon near 1) or "exp" (late).
    """
    share = {"linear": progress, "log": 1.0 - math.exp(-5.0 * progress), "exp": math.exp(5.0 * (progress - 1.0))}
    return share[annealing] * (1.0 - 1.0 / num_classes) + 1.0 / num_classes


class ConsistencyTraining(AddedLoss):
    """Strong views of speech without text learn from weak ones (UDA, Xie et al. 2019, arXiv 1904.12848).

    The weak view of a recording is what the task says in evaluation mode, without any augmentation or dropout; the
    strong view is what it says in training, through the task's own feature callbacks. Their divergence, KL(weak ||
    strong) with the weak side constant, is added to the loss. For sequences it is taken frame by frame: feature
    callbacks keep the time axis, so frame t of both views is the same moment, and no decoding is needed. An utterance
    counts with the mean over its frames, those where the weak view is unsure counting as 0.

    Training-signal annealing, for where labels are few: an utterance to whose labels the model already gives more than
    a threshold (the geometric mean of their probabilities, by CTC's loss) teaches nothing in this step.

    Args:
        unlabelled: the recordings.
        weight: of the divergence, which is a mean over frames where CTC's loss is over labels; 0 is off.
        min_confidence: frames count where the weak view's likeliest symbol has this probability.
        temperature: of the weak view; below 1 it is sharpened.
        annealing: of the labelled signal, "none", "linear", "log" or "exp".

    Raises:
        ValueError: an argument outside its range; at start, another task than `Recognition`, a `SpecAugment` that
            warps time, or annealing beside `ConsistencyRegularization`.
    """

    def __init__(
        self,
        unlabelled: UnlabelledSpeech,
        weight: float = 1.0,
        min_confidence: float = 0.5,
        temperature: float = 0.8,
        annealing: str = "none",
    ) -> None:
        super().__init__(weight, unlabelled)
        if not 0.0 <= min_confidence <= 1.0:
            raise ValueError(f"`min_confidence` must lie in [0, 1], got {min_confidence}.")
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        if annealing not in ANNEALINGS:
            raise ValueError(f"`annealing` must be one of {', '.join(ANNEALINGS)}, got {annealing!r}.")
        self.min_confidence, self.temperature, self.annealing = min_confidence, temperature, annealing

    def attach(self, trainer: lightning.Trainer, task: Recognition) -> None:
        refuse_time_warp(self, trainer)
        if self.annealing == "none":
            return

        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(other, ConsistencyRegularization) for other in callbacks):
            raise ValueError("`annealing` must be none with ConsistencyRegularization, whose second view it misses.")
        if any(isinstance(other, Mixup) for other in callbacks):
            raise ValueError("`annealing` must be none with Mixup, whose second text it misses.")

        def anneal(module: CTCLoss, args: tuple[Tensor, ...], losses: Tensor) -> Tensor:
            if not task.training:
                return losses
            with torch.no_grad():  # CTC alone decides, without smoothing or entropy
                plain = CTCLoss(blank=module.blank, backend=module.backend).forward(*args)
            progress = trainer.global_step / trainer.estimated_stepping_batches
            threshold = annealing_threshold(progress, task.tokenizer.vocab_size, self.annealing)
            return losses.masked_fill(plain < -math.log(threshold), 0.0)

        self._handles.append(task.loss.register_forward_hook(anneal, prepend=True))

    def added_loss(self, trainer: lightning.Trainer, task: Recognition, batch: SpeechBatch) -> Tensor:
        heard = self.next_unlabelled(task)
        with evaluation_mode(task):
            weak, _ = task(heard.waveform, heard.lengths)
        strong, frames = task(heard.waveform, heard.lengths)
        divergence = frame_divergence(
            strong, weak, frames, min_confidence=self.min_confidence, temperature=self.temperature
        )
        loss = heard.loss_scale * (heard.weights * divergence / frames.clamp(min=1)).sum()
        is_sure = (weak.float().softmax(dim=-1).amax(dim=-1) >= self.min_confidence).float()
        sure = heard.loss_scale * (heard.weights * mean_over_frames(is_sure, frames)).sum()
        task.log("consistency_loss", loss.detach(), batch_size=len(heard.ids), sync_dist=True)
        task.log("consistency_sure", sure, batch_size=len(heard.ids), sync_dist=True)
        return self.weight * loss
