"""wav2vec 2.0: an encoder guesses the quantized latents of masked spans (Baevski et al. 2020, arXiv 2006.11477)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechkit.bundle import Bundle
from speechkit.codebooks import CodeUse, code_use, joined_codes
from speechkit.data import SpeechBatch
from speechkit.heads import MaskedPredictionHead
from speechkit.losses import InfoNCE, Negatives, draw_negatives_per_anchor, infonce, span_mask
from speechkit.masking import mean_over_frames
from speechkit.parts import describe
from speechkit.seeding import seeds_for
from speechkit.tasks.pretraining import Pretraining
from speechkit.tasks.recognition import differences, load_pretrained_encoder


class MaskedContrast(NamedTuple):
    """What a forward pass gives."""

    contrast: InfoNCE  # of masked frames
    codes: CodeUse  # of masked frames
    penalty: Tensor  # (B,) mean square of the latents


class MaskedContrastivePretraining(Pretraining):
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
        super().__init__(
            front_end=front_end,
            encoder=encoder,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_fraction=warmup_fraction,
        )
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
        if not 0.0 < start_probability <= 1.0:
            raise ValueError(f"`start_probability` must lie in (0, 1], got {start_probability}.")
        if span_length < 1:
            raise ValueError(f"`span_length` must be at least 1, got {span_length}.")
        self.head = MaskedPredictionHead(codebook=codebook, context_dim=encoder.output_dim, output_dim=prediction_dim)
        self.start_probability, self.span_length = start_probability, span_length
        self.num_negatives, self.temperature = num_negatives, temperature
        self.diversity_weight, self.penalty_weight = diversity_weight, penalty_weight
        self.latent_gradient_scale = latent_gradient_scale
        if start_from is not None:
            bundle = load_pretrained_encoder(
                start_from, front_end, encoder, argument="start_from", others=list(self.head.modules())
            )
            _load_head(bundle, self.head, start_from)

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
    ) -> MaskedContrast:
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
            penalty = mean_over_frames(latents.float().square().mean(dim=-1), frames)
            codes = code_use(quantized, counts, joined=self.training)
        return MaskedContrast(contrast, codes, penalty)

    def compare(self, batch: SpeechBatch) -> MaskedContrast:
        return self(batch.waveform, batch.lengths, seeds=batch.seeds)

    def why_skipped(self, num_frames: int) -> str:
        return f"no two of its {num_frames} frames are masked and have different codes"

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        """The mean over the joined batch of each utterance's losses, plus the joined batch's diversity loss."""
        contrast, codes, penalty = self.compare(batch)
        self.log_means(batch, {"penalty": penalty})
        return self.step_loss(batch, contrast, codes, self.penalty_weight * penalty)

    def bundle(self, card: str = "") -> Bundle:
        """The pretrained encoder, its front end, and the head from which pretraining can go on."""
        return Bundle(self.front_end, self.encoder, self.head, card=card)


def _masked_frames(mask: Tensor) -> Tensor:
    """(B, T) -> (B, M): the masked frames of each utterance in order, then any others, up to the largest number M."""
    most = int(mask.sum(dim=1).max()) if mask.numel() else 0
    return (~mask).byte().argsort(dim=1, stable=True)[:, :most]


def _pick(x: Tensor, frames: Tensor) -> Tensor:
    """(B, T, D), (B, M) -> (B, M, D)."""
    return x.gather(1, frames[:, :, None].expand(-1, -1, x.shape[2]))


def _load_head(bundle: Bundle, head: MaskedPredictionHead, path: str) -> None:
    """Copies the weights of a bundle's head; raises ValueError where it has none of this kind and these sizes."""
    if bundle.head is None:
        raise ValueError(f"`start_from` {path}: must hold a head of pretraining, got an encoder alone.")
    if different := differences(describe(bundle.head), describe(head)):
        raise ValueError(f"`start_from` {path}: its head was built with other arguments: {'; '.join(different)}.")
    head.load_state_dict(bundle.head.state_dict())
