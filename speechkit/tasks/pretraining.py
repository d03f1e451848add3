"""What contrastive pretrainings share: a step's loss, validation, optimizer, and names of what teaches nothing."""

import logging
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from speechkit.codebooks import CodeUse, diversity_loss, perplexity
from speechkit.data import SpeechBatch
from speechkit.losses import NCE, InfoNCE
from speechkit.tasks.optimization import adamw_warmup_cosine
from speechkit.tasks.recognition import check_dimensions
from speechkit.tasks.sharding import shard_parameters

_log = logging.getLogger(__name__)
_IN_BAR = ("loss", "accuracy")


class Pretraining(lightning.LightningModule):
    """A front end and an encoder that learn from audio alone by a contrast.

    A task adds `compare`, its forward pass; `training_step`, which ends with `step_loss`; `why_skipped`; and `bundle`.
    What a step draws at random for an utterance comes from its seed in the batch, so a step does not depend on the
    number of ranks, and every validation draws the same.

    Args:
        front_end: waveform -> features.
        encoder: features -> representations.
        learning_rate: peak of AdamW's rate.
        weight_decay: on matrices.
        warmup_fraction: share of the training in which the rate rises.

    Raises:
        ValueError: an encoder whose input is not the front end's output.
    """

    monitor = "val_loss"  # what the best checkpoint has least of
    diversity_weight = 0.0

    def __init__(
        self,
        *,
        front_end: nn.Module,
        encoder: nn.Module,
        learning_rate: float,
        weight_decay: float,
        warmup_fraction: float,
    ) -> None:
        super().__init__()
        check_dimensions(front_end, encoder)
        self.front_end: Any = front_end
        self.encoder: Any = encoder
        self.learning_rate, self.weight_decay, self.warmup_fraction = learning_rate, weight_decay, warmup_fraction
        self._warned_skipped: set[str] = set()
        self._num_steps, self._num_taught = 0, torch.zeros(())  # of the epoch: steps, and utterances that taught
        self._barren_epochs = 0

    def compare(self, batch: SpeechBatch) -> Any:
        """A forward pass with the batch's seeds; `contrast` of the result is its `InfoNCE` or `NCE`."""
        raise NotImplementedError

    def why_skipped(self, num_frames: int) -> str:
        """Why an utterance of so many frames had no prediction."""
        raise NotImplementedError

    def step_loss(
        self, batch: SpeechBatch, contrast: InfoNCE | NCE, codes: CodeUse | None, added: Tensor | float = 0.0
    ) -> Tensor:
        """The mean over the joined batch of each utterance's losses, plus the joined batch's diversity loss; logged.

        Args:
            batch: of this rank.
            contrast: of its utterances.
            codes: of the codebook, if there is one.
            added: (B,) what else an utterance's loss is made of.
        """
        skipped = (contrast.predictions == 0) & (batch.weights > 0)
        self._num_steps += 1
        taught = ((contrast.predictions > 0) & (batch.weights > 0)).sum()
        self._num_taught = self._num_taught.to(taught.device) + taught
        self._name_skipped(batch, skipped)
        each = contrast.loss + added * (contrast.predictions > 0)
        means = {"loss": contrast.loss, "accuracy": contrast.accuracy, "score_gap": contrast.score_gap}
        if isinstance(contrast, InfoNCE):
            means["bound"] = contrast.bound
        self.log_means(batch, means)
        self.log("train_skipped", skipped.sum().float(), batch_size=1, sync_dist=True, reduce_fx="sum")
        if codes is None:
            return batch.loss_scale * (batch.weights * each).sum()
        diversity = diversity_loss(codes.soft_usage)
        values = {"diversity_loss": diversity.detach()}
        values |= {f"perplexity_{group}": value for group, value in enumerate(perplexity(codes.usage))}
        for name, value in values.items():
            self.log(f"train_{name}", value, batch_size=len(batch.ids), sync_dist=True)
        return batch.loss_scale * (batch.weights * (each + codes.loss)).sum() + self.diversity_weight * diversity

    def log_means(self, batch: SpeechBatch, values: Mapping[str, Tensor]) -> None:
        """Logs, as `train_...`, the mean over the joined batch of values of each utterance (B,)."""
        for name, value in values.items():
            mean = batch.loss_scale * (batch.weights * value.detach()).sum()
            self.log(f"train_{name}", mean, prog_bar=name in _IN_BAR, batch_size=len(batch.ids), sync_dist=True)

    def on_train_batch_start(self, batch: SpeechBatch, batch_idx: int) -> None:
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1, rank_zero_only=True)

    def on_train_epoch_start(self) -> None:
        self._num_steps, self._num_taught = 0, torch.zeros(())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["barren_epochs"] = self._barren_epochs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._barren_epochs = checkpoint.get("barren_epochs", 0)

    def on_train_epoch_end(self) -> None:
        """Ends a training that has nothing to learn from.

        Raises:
            ValueError: in two epochs running, no utterance had anything to predict.
        """
        num_taught = self.trainer.strategy.reduce(self._num_taught.to(self.device), reduce_op="sum")
        if self._num_steps:
            self._barren_epochs = 0 if float(num_taught) else self._barren_epochs + 1
        if self._barren_epochs == 2:
            raise ValueError("`train` must hold utterances that have something to predict, got none in two epochs.")

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(3, device=self.device)  # loss, accuracy, utterances

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        contrast = self.compare(batch).contrast
        weights = batch.weights * (contrast.predictions > 0)
        self._sums += torch.stack([(weights * contrast.loss).sum(), (weights * contrast.accuracy).sum(), weights.sum()])

    def on_validation_epoch_end(self) -> None:
        loss, accuracy, count = self.trainer.strategy.reduce(self._sums, reduce_op="sum")
        self.log("val_loss", loss / count.clamp(min=1), prog_bar=True, sync_dist=True)
        self.log("val_accuracy", accuracy / count.clamp(min=1), prog_bar=True, sync_dist=True)

    def configure_model(self) -> None:
        shard_parameters(self)

    def configure_optimizers(self) -> Any:
        return adamw_warmup_cosine(
            self,
            total_steps=self.trainer.estimated_stepping_batches,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
        )

    def _name_skipped(self, batch: SpeechBatch, skipped: Tensor) -> None:
        """Says once which utterances have no prediction and so teach nothing."""
        if not bool(skipped.any()):
            return
        frames = self.encoder.output_lengths(self.front_end.output_lengths(batch.lengths)).tolist()
        for name, is_skipped, num_frames in zip(batch.ids, skipped.tolist(), frames, strict=True):
            if is_skipped and name not in self._warned_skipped:
                self._warned_skipped.add(name)
                _log.warning("%s: %s, so its loss counts as 0", name, self.why_skipped(num_frames))
