"""Contrastive predictive coding: an encoder learns from audio alone (van den Oord et al. 2018, arXiv 1807.03748)."""

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from speechkit.bundle import Bundle
from speechkit.data import SpeechBatch
from speechkit.heads import StepPredictors
from speechkit.losses import draw_negatives, infonce
from speechkit.losses.infonce import InfoNCE
from speechkit.tasks.optimization import adamw_warmup_cosine
from speechkit.tasks.recognition import check_dimensions


class ContrastivePretraining(lightning.LightningModule):
    """CPC: the context at t tells the latents at t + 1 .. t + K from negatives. Seams: `front_end`, `encoder`, `head`.

    Args:
        front_end: waveform -> features.
        encoder: one with `latents` and a causal `context`, such as `ConvGRUEncoder` or `Wav2VecEncoder`.
        num_steps: K, how far ahead.
        num_negatives: size of each utterance's pool.
        negatives: "same_utterance", "other_utterances" or "mixed".
        temperature: of the cosine scores.
        clean_targets: in training, predict latents of the features as they were before callbacks such as SpecAugment
            and FrequencyWarp changed them, so that what they change (the voice, say) is of no use to the context
            (Kharitonov et al. 2021, arXiv 2007.00991, section 3). Costs a second pass of front end and convolutions.
        learning_rate: peak of AdamW's rate.
        weight_decay: on matrices.
        warmup_fraction: share of the training in which the rate rises.

    Raises:
        ValueError: an encoder that sees the future, or whose input is not the front end's output.
    """

    monitor = "val_loss"  # what the best checkpoint has least of

    def __init__(
        self,
        *,
        front_end: nn.Module,
        encoder: nn.Module,
        num_steps: int = 6,
        num_negatives: int = 128,
        negatives: str = "same_utterance",
        temperature: float = 0.1,
        clean_targets: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
    ) -> None:
        super().__init__()
        check_dimensions(front_end, encoder)
        if not hasattr(encoder, "latents") or getattr(encoder, "bidirectional", False):
            raise ValueError("`encoder` must have latents and a causal context (ConvGRUEncoder, bidirectional: false).")
        self.front_end, self.encoder = front_end, encoder
        self.head = StepPredictors(context_dim=encoder.output_dim, latent_dim=encoder.latent_dim, num_steps=num_steps)
        self.num_negatives, self.negatives, self.temperature = num_negatives, negatives, temperature
        self.clean_targets = clean_targets
        self.learning_rate, self.weight_decay, self.warmup_fraction = learning_rate, weight_decay, warmup_fraction

    def forward(self, waveform: Tensor, lengths: Tensor) -> InfoNCE:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> loss and accuracy of each utterance."""
        latents, frames = self.encoder.latents(*self.front_end(waveform, lengths))
        context, _ = self.encoder.context(latents, frames)
        targets = latents
        if self.clean_targets and self.training:  # `forward` itself: the seam's hooks do not see this call
            targets, _ = self.encoder.latents(*self.front_end.forward(waveform, lengths))
        pool = draw_negatives(frames, self.num_negatives, source=self.negatives)
        with torch.autocast(waveform.device.type, enabled=False):
            predictions = self.head(context.float())
            return infonce(predictions, targets.float(), frames, pool, temperature=self.temperature)

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        """The mean over the joined batch of each utterance's InfoNCE."""
        result = self(batch.waveform, batch.lengths)
        loss = batch.loss_scale * (batch.weights * result.loss).sum()
        accuracy = batch.loss_scale * (batch.weights * result.accuracy).sum()
        self.log("train_loss", loss.detach(), prog_bar=True, batch_size=len(batch.ids), sync_dist=True)
        self.log("train_accuracy", accuracy, prog_bar=True, batch_size=len(batch.ids), sync_dist=True)
        return loss

    def on_train_batch_start(self, batch: SpeechBatch, batch_idx: int) -> None:
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1, rank_zero_only=True)

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(3, device=self.device)  # loss, accuracy, utterances

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)  # the same negatives at every validation
            result = self(batch.waveform, batch.lengths)
        weights = batch.weights
        self._sums += torch.stack([(weights * result.loss).sum(), (weights * result.accuracy).sum(), weights.sum()])

    def on_validation_epoch_end(self) -> None:
        loss, accuracy, count = self.trainer.strategy.reduce(self._sums, reduce_op="sum")
        self.log("val_loss", loss / count.clamp(min=1), prog_bar=True, sync_dist=True)
        self.log("val_accuracy", accuracy / count.clamp(min=1), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        return adamw_warmup_cosine(
            self,
            total_steps=self.trainer.estimated_stepping_batches,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
        )

    def bundle(self, card: str = "") -> Bundle:
        """The pretrained encoder and its front end."""
        return Bundle(self.front_end, self.encoder, card=card)
