"""Pseudo-labels: a slowly moving teacher transcribes recordings without text, and the student learns from that."""

from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.callbacks.added_loss import AddedLoss
from speechkit.callbacks.momentum_teacher import MomentumTeacher
from speechkit.data import ArchivedCuts, SpeechBatch, UnlabelledSpeech
from speechkit.decoding import greedy_decode
from speechkit.decoding.pseudo_labels import PseudoLabelFilter, characters_per_second, emission_confidence
from speechkit.tasks import Recognition


class PseudoLabel(AddedLoss):
    """Momentum pseudo-labelling (Higuchi et al. 2021, arXiv 2106.08922; Kaizen, Manohar et al. 2021, arXiv 2106.07759).

    In every step the teacher, an exponential moving average of the student, hears a batch without text as it is and
    decodes it greedily. The student hears it through the task's own feature callbacks and dropout, and its CTC loss on
    the teacher's text is added. Labels are texts and not frames, so the student may place them where it likes, and a
    view may change the time axis. Greedy texts without a language model keep the student from copying one's mistakes
    (slimIPL, Likhomanenko et al. 2020, arXiv 2010.11524). An utterance that is filtered out counts as a loss of 0, not
    as absent, as in FixMatch (arXiv 2001.07685): so the weight of the term grows as the teacher gets sure, and the term
    is the same for any number of processes.

    Labels that are made once and kept are no callback: see `speechkit pseudo-label`.

    Args:
        unlabelled: the recordings.
        weight: of the loss on them; 0 is off.
        momentum: of the teacher, in [0, 1).
        start_fraction: share of the training in which the teacher follows and nothing is learned from it yet.
        min_confidence: least confidence of a text, see `emission_confidence`.
        min_length_ratio: fewest characters a second of a text, over those of the labelled set.
        max_length_ratio: most of them.

    Raises:
        ValueError: an argument outside its range; at start, sharded parameters or another task than `Recognition`.
    """

    def __init__(
        self,
        unlabelled: UnlabelledSpeech,
        weight: float = 1.0,
        momentum: float = 0.999,
        start_fraction: float = 0.2,
        min_confidence: float = 0.5,
        min_length_ratio: float = 0.3,
        max_length_ratio: float = 2.0,
    ) -> None:
        super().__init__(weight, unlabelled)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` must lie in [0, 1), got {momentum}.")
        if not 0.0 <= start_fraction < 1.0:
            raise ValueError(f"`start_fraction` must lie in [0, 1), got {start_fraction}.")
        self.momentum, self.start_fraction = momentum, start_fraction
        self.filter = PseudoLabelFilter(min_confidence, min_length_ratio, max_length_ratio)
        self._teacher: MomentumTeacher | None = None
        self._usual_rate = 0.0
        self._steps_seen = 0

    def attach(self, trainer: lightning.Trainer, task: Recognition) -> None:
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise ValueError("PseudoLabel needs whole parameters for its teacher, and `trainer.strategy` shards them.")
        data: Any = getattr(trainer, "datamodule", None)
        if data is None:
            raise ValueError("PseudoLabel needs a data module, for the rate of speech of its texts; got none.")
        self._teacher = MomentumTeacher(task, self.momentum)
        cuts = data.train_cuts
        if isinstance(cuts, ArchivedCuts):
            seconds = (value / 1000 for shard in cuts.durations_milliseconds() for value in shard.tolist())
            self._usual_rate = characters_per_second(cuts.texts(), seconds)
        else:
            self._usual_rate = characters_per_second(
                (cut.supervisions[0].text for cut in cuts), (cut.duration for cut in cuts)
            )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._teacher is not None:
            self._teacher.to(pl_module.device)
        self._steps_seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._teacher is not None and trainer.global_step > self._steps_seen:  # not while gradients accumulate
            self._teacher.update(pl_module)
            self._steps_seen = trainer.global_step

    def added_loss(self, trainer: lightning.Trainer, task: Recognition, batch: SpeechBatch) -> Tensor:
        if trainer.global_step < self.start_fraction * trainer.estimated_stepping_batches:
            return torch.zeros((), device=task.device)
        heard = self.next_unlabelled(task)
        targets, target_lengths, is_kept = self.pseudo_labels(task, heard)
        weights = heard.weights * is_kept
        logits, frames = task(heard.waveform, heard.lengths)
        losses = task.loss.forward(logits, targets, frames, target_lengths)  # hooks on `loss` are for labelled batches
        loss = heard.loss_scale * (weights * losses).sum()
        kept = heard.loss_scale * weights.sum()
        task.log("pseudo_label_loss", loss.detach(), batch_size=len(heard.ids), sync_dist=True)
        task.log("pseudo_label_kept", kept, batch_size=len(heard.ids), sync_dist=True)
        return self.weight * loss

    @torch.no_grad()
    def pseudo_labels(self, task: Recognition, batch: SpeechBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's labels of a batch: targets (B, U), their lengths (B,), and which to learn from (B,)."""
        assert self._teacher is not None
        logits, frames = self._teacher.logits(batch.waveform, batch.lengths)
        labels = greedy_decode(logits, frames, blank=task.tokenizer.blank_id)
        confidences = emission_confidence(logits, frames, blank=task.tokenizer.blank_id).tolist()
        seconds = (batch.lengths / task.front_end.sample_rate_hz).tolist()
        is_kept = [
            self.filter.keeps(
                task.tokenizer.decode(row), seconds=duration, confidence=confidence, usual_rate=self._usual_rate
            )
            for row, duration, confidence in zip(labels, seconds, confidences, strict=True)
        ]
        targets = pad_sequence([torch.tensor(row, dtype=torch.long) for row in labels], batch_first=True)
        lengths = torch.tensor([len(row) for row in labels])
        return targets.to(logits.device), lengths.to(logits.device), torch.tensor(is_kept).to(logits.device)

    def state_dict(self) -> dict[str, Any]:
        teacher = {} if self._teacher is None else {"teacher": self._teacher.state_dict()}
        return {**super().state_dict(), **teacher}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self._teacher is not None and "teacher" in state_dict:
            self._teacher.load_state_dict(state_dict["teacher"])
