"""wav2vec 2.0: an encoder guesses the quantized latents of masked spans (Baevski et al. 2020, arXiv 2006.11477)."""

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.bundle import Bundle, load_bundle
from speechkit.codebooks import diversity_loss, joined_codes, perplexity
from speechkit.data import SpeechBatch
from speechkit.heads import MaskedPredictionHead
from speechkit.losses import InfoNCE, Negatives, draw_negatives_per_anchor, infonce, span_mask
from speechkit.masking import length_mask
from speechkit.parts import describe
from speechkit.seeding import seeds_for
from speechkit.tasks.optimization import adamw_warmup_cosine
from speechkit.tasks.recognition import check_dimensions, load_pretrained_encoder

_log = logging.getLogger(__name__)


class MaskedPretraining(NamedTuple):
    """What a forward pass gives: of each utterance, and of the batch's use of the codebook."""

    contrast: InfoNCE
    penalty: Tensor  # (B,) mean square of the latents
    codebook_loss: Tensor  # (B,) mean over masked frames
    usage: Tensor  # (G, V) shares of the codes that were chosen in the masked frames of the (joined) batch
    soft_usage: Tensor  # (G, V) the same of their probabilities, with gradient


class MaskedContrastivePretraining(lightning.LightningModule):
    """Spans of latents are masked; the context there must tell its own quantized latent from those of other spans.

    Seams: `front_end`, `encoder`, `encoder.layers.N`, `head`.

    Args:
        front_end: waveform -> features; `Waveform` for samples.
        encoder: one with `latents`, `latent_norm`, and a `context` that takes a mask, such as `Wav2Vec2Encoder`.
        codebook: quantizes latents; see `speechkit.codebooks`.
        start_from: bundle of a pretraining by this task, or of an imported checkpoint, whose weights are the start.
        prediction_dim: of the space in which contexts and quantized latents are compared.
        start_probability: share of frames at which a masked span begins.
        span_length: frames in a span.
        num_negatives: for each masked frame, from the other masked frames of its utterance, with replacement.
        temperature: of the cosine scores.
        diversity_weight: of the share of codes that are not used.
        penalty_weight: of the mean square of the latents.
        latent_gradient_scale: on the gradient that reaches the convolutions.
        learning_rate: peak of AdamW's rate.
        weight_decay: on matrices.
        warmup_fraction: share of the training in which the rate rises.

    Raises:
        ValueError: parts whose dimensions do not meet, an encoder whose context takes no mask, a temperature that is
            not positive, or less than one negative.
    """

    monitor = "val_loss"  # what the best checkpoint has least of

    def __init__(
        self,
        *,
        front_end: nn.Module,
        encoder: nn.Module,
        codebook: nn.Module,
        start_from: str | None = None,
        prediction_dim: int = 256,
        start_probability: float = 0.065,
        span_length: int = 10,
        num_negatives: int = 100,
        temperature: float = 0.1,
        diversity_weight: float = 0.1,
        penalty_weight: float = 10.0,
        latent_gradient_scale: float = 0.1,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.08,
    ) -> None:
        super().__init__()
        check_dimensions(front_end, encoder)
        if not hasattr(encoder, "latent_norm"):
            raise ValueError(f"`encoder` must mask its latents (Wav2Vec2Encoder), got {type(encoder).__name__}.")
        if codebook.input_dim != encoder.latent_dim:
            raise ValueError(
                f"`codebook.input_dim` must be the latents' {encoder.latent_dim}, got {codebook.input_dim}."
            )
        if temperature <= 0.0 or num_negatives < 1:
            raise ValueError(
                f"`temperature` and `num_negatives` must be positive, got {temperature} and {num_negatives}."
            )
        self.front_end: Any = front_end
        self.encoder: Any = encoder
        self.head = MaskedPredictionHead(codebook=codebook, context_dim=encoder.output_dim, output_dim=prediction_dim)
        self.start_probability, self.span_length = start_probability, span_length
        self.num_negatives, self.temperature = num_negatives, temperature
        self.diversity_weight, self.penalty_weight = diversity_weight, penalty_weight
        self.latent_gradient_scale = latent_gradient_scale
        self.learning_rate, self.weight_decay, self.warmup_fraction = learning_rate, weight_decay, warmup_fraction
        if start_from is not None:
            load_pretrained_encoder(start_from, front_end, encoder)
            _load_head(start_from, self.head)
        self._warned_short: set[str] = set()

    @property
    def loss_of_guessing(self) -> float:
        """Of an encoder whose contexts score all candidates alike."""
        return math.log(1 + self.num_negatives)

    def forward(
        self,
        waveform: Tensor,
        lengths: Tensor,
        mask: Tensor | None = None,
        negatives: Negatives | None = None,
        *,
        seeds: Sequence[int] | None = None,
    ) -> MaskedPretraining:
        """Losses of a batch.

        Args:
            waveform: (B, N) in [-1, 1].
            lengths: (B,) in samples.
            mask: (B, T') True where latents are masked; drawn if none.
            negatives: of each masked frame, which masked frames of its utterance it is told from, counted from the
                first; drawn if none. One with the positive's codes is the positive itself, and is left out.
            seeds: B of them, for the draws of mask, negatives and codes; none draws from torch's generator.
        """
        latents, frames = self.encoder.latents(*self.front_end(waveform, lengths))
        if latents.requires_grad:
            latents.register_hook(lambda gradient: self.latent_gradient_scale * gradient)
        if mask is None:
            mask = span_mask(
                frames,
                latents.shape[1],
                start_probability=self.start_probability,
                span_length=self.span_length,
                seeds=seeds_for("mask", seeds),
            )
        context, _ = self.encoder.context(latents, frames, mask)
        counts = mask.sum(dim=1)
        where = _masked_frames(mask)
        if negatives is None:
            negatives = draw_negatives_per_anchor(counts, self.num_negatives, seeds=seeds)
        with torch.autocast(waveform.device.type, enabled=False):
            masked_latents = self.encoder.latent_norm(_pick(latents, where).float())
            predictions, targets, quantized = self.head(
                _pick(context, where).float(), masked_latents, step=self.global_step, seeds=seeds_for("codes", seeds)
            )
            contrast = infonce(
                predictions,
                targets,
                counts,
                negatives,
                temperature=self.temperature,
                codes=joined_codes(quantized.codes, self.head.codebook.num_codes),
            )
            penalty = _mean_of_frames(latents.float().square().mean(dim=-1), frames)
            usage, soft_usage = self._usage(quantized.codes, quantized.probabilities, counts)
        return MaskedPretraining(contrast, penalty, _mean_of_frames(quantized.loss, counts), usage, soft_usage)

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        """The means over the joined batch of each utterance's losses, plus the joined batch's diversity loss."""
        result = self(batch.waveform, batch.lengths, seeds=batch.seeds)
        contrast = result.contrast
        self._name_short(batch, contrast.predictions)
        each = contrast.loss + self.penalty_weight * result.penalty + result.codebook_loss
        diversity = diversity_loss(result.soft_usage)
        loss = batch.loss_scale * (batch.weights * each).sum() + self.diversity_weight * diversity
        means = {
            "loss": contrast.loss,
            "accuracy": contrast.accuracy,
            "score_gap": contrast.score_gap,
            "penalty": result.penalty,
        }
        values = {name: batch.loss_scale * (batch.weights * value.detach()).sum() for name, value in means.items()}
        values["diversity_loss"] = diversity.detach()
        for group, value in enumerate(perplexity(result.usage)):
            values[f"perplexity_{group}"] = value
        for name, value in values.items():
            bar = name in ("loss", "accuracy")
            self.log(f"train_{name}", value, prog_bar=bar, batch_size=len(batch.ids), sync_dist=True)
        return loss

    def on_train_batch_start(self, batch: SpeechBatch, batch_idx: int) -> None:
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1, rank_zero_only=True)

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(3, device=self.device)  # loss, accuracy, utterances

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        contrast = self(batch.waveform, batch.lengths, seeds=batch.seeds).contrast
        weights = batch.weights * (contrast.predictions > 0)
        self._sums += torch.stack([(weights * contrast.loss).sum(), (weights * contrast.accuracy).sum(), weights.sum()])

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
        """The pretrained encoder, its front end, and the head from which pretraining can go on."""
        return Bundle(self.front_end, self.encoder, self.head, card=card)

    def _usage(self, codes: Tensor, probabilities: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of each code over the masked frames, in training those of all ranks: chosen, and probable."""
        masked = length_mask(counts, codes.shape[1])[:, :, None, None]
        chosen = F.one_hot(codes, probabilities.shape[-1]).to(probabilities.dtype)
        sums = torch.stack([(chosen * masked).sum(dim=(0, 1)), (probabilities * masked).sum(dim=(0, 1))])
        count = counts.sum().to(sums.dtype).reshape(1)
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            from torch.distributed.nn.functional import all_reduce

            sums, count = all_reduce(sums), all_reduce(count)
        usage, soft_usage = sums / count.clamp(min=1)
        return usage, soft_usage

    def _name_short(self, batch: SpeechBatch, predictions: Tensor) -> None:
        """Says once which utterances are too short to learn from."""
        for name, count, weight in zip(batch.ids, predictions.tolist(), batch.weights.tolist(), strict=True):
            if weight and not count and name not in self._warned_short:
                self._warned_short.add(name)
                _log.warning(
                    "%s: too short for two masked frames, so its loss counts as 0 (%d such utterances so far)",
                    name,
                    len(self._warned_short),
                )


def _masked_frames(mask: Tensor) -> Tensor:
    """(B, T) -> (B, M): the masked frames of each utterance in order, then any others, up to the largest number M."""
    most = int(mask.sum(dim=1).max()) if mask.numel() else 0
    return (~mask).byte().argsort(dim=1, stable=True)[:, :most]


def _pick(x: Tensor, frames: Tensor) -> Tensor:
    """(B, T, D), (B, M) -> (B, M, D)."""
    return x.gather(1, frames[:, :, None].expand(-1, -1, x.shape[2]))


def _mean_of_frames(x: Tensor, counts: Tensor) -> Tensor:
    """(B, M), (B,) -> (B,): over the first `counts` frames; 0 where there are none."""
    return x.masked_fill(~length_mask(counts, x.shape[1]), 0.0).sum(dim=1) / counts.clamp(min=1)


def _load_head(path: str, head: MaskedPredictionHead) -> None:
    """Copies the weights of a bundle's head; raises ValueError where it has none of this kind and these sizes."""
    theirs = load_bundle(path).head
    if theirs is None or describe(theirs) != describe(head):
        found = "none" if theirs is None else describe(theirs)
        raise ValueError(f"`start_from` {path}: must hold the head {describe(head)}, got {found}.")
    head.load_state_dict(theirs.state_dict())
