"""Contrastive predictive coding: an encoder learns from audio alone (van den Oord et al. 2018, arXiv 1807.03748)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechkit.bundle import Bundle
from speechkit.codebooks import CodeUse, code_use
from speechkit.data import SpeechBatch
from speechkit.heads import StepPredictors, TransformerPredictors
from speechkit.losses import NCE, InfoNCE, contrastive_nce, draw_negatives, infonce, join_ranks, speaker_codes
from speechkit.losses.contrast import SCORES
from speechkit.losses.negatives import SOURCES
from speechkit.seeding import seeds_for
from speechkit.tasks.pretraining import Pretraining
from speechkit.tasks.recognition import load_pretrained_encoder

OBJECTIVES = {"infonce": infonce, "nce": contrastive_nce}
PREDICTORS = {"linear": StepPredictors, "transformer": TransformerPredictors}


class Contrast(NamedTuple):
    """What a forward pass gives."""

    contrast: InfoNCE | NCE
    codes: CodeUse | None


class ContrastivePretraining(Pretraining):
    """CPC: the context at t tells the latents at t + 1 .. t + K from negatives. Seams: `front_end`, `encoder`, `head`.

    Under a distributed strategy, negatives from other utterances come from those of all ranks, so the result of a step
    is that of one process with the joined batch. An utterance without a prediction (too short, or no other utterance
    to take negatives from) counts as 0, is counted in `train_skipped` and named once in the log.

    With a `QuantizedEncoder` this is vq-wav2vec (Baevski et al. 2020, arXiv 1910.05453): the context reads and predicts
    code words, and the codebook adds a loss of its own and one for codes that are not used.

    Args:
        front_end: waveform -> features.
        encoder: one with `latents` and a causal `context`: `ConvGRUEncoder`, `Wav2VecEncoder`, or a `QuantizedEncoder`
            around one of them.
        encoder_from: bundle whose encoder is the start, for a pretraining that goes on with other recordings or another
            rate; its predictors are new.
        num_steps: K, how far ahead.
        predictor: "linear", or "transformer": a causal layer for each step, which trains more stably and transfers
            better (Riviere et al. 2020, arXiv 2002.02848).
        objective: "infonce", or "nce": binary, as wav2vec's (Schneider et al. 2019, arXiv 1904.05862).
        num_negatives: size of each utterance's pool.
        negatives: "same_utterance", "other_utterances", "same_speaker" or "mixed" (half own, half others); or "hard":
            those of a larger mixed pool that score highest.
        hard_pool_factor: how many times larger that pool is.
        score: "cosine", or "dot", with the linear predictor the bilinear score.
        temperature: of the scores.
        negatives_at_a_time: how many negatives' scores are in memory; with more, backward computes them again.
        clean_targets: in training, predict latents of the features as they were before callbacks such as SpecAugment
            and FrequencyWarp changed them, so that what they change (the voice, say) is of no use to the context
            (Kharitonov et al. 2021, arXiv 2007.00991, section 3). Costs a second pass of front end and convolutions.
        diversity_weight: of the share of codes that are not used, with a `QuantizedEncoder`.
        learning_rate: peak of AdamW's rate.
        weight_decay: on matrices.
        warmup_fraction: share of the training in which the rate rises.

    Raises:
        ValueError: an encoder that sees the future, or whose input is not the front end's output, or an option that
            there is not.
    """

    def __init__(
        self,
        *,
        front_end: nn.Module,
        encoder: nn.Module,
        encoder_from: str | None = None,
        num_steps: int = 6,
        predictor: str = "linear",
        objective: str = "infonce",
        num_negatives: int = 128,
        negatives: str = "same_utterance",
        hard_pool_factor: int = 8,
        score: str = "cosine",
        temperature: float = 0.1,
        negatives_at_a_time: int = 128,
        clean_targets: bool = False,
        diversity_weight: float = 0.1,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
    ) -> None:
        super().__init__(
            front_end=front_end,
            encoder=encoder,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_fraction=warmup_fraction,
        )
        if not hasattr(encoder, "latents") or getattr(encoder, "bidirectional", False):
            raise ValueError(
                "`encoder` must have latents and a causal context (ConvGRUEncoder, bidirectional: false), "
                f"got {type(encoder).__name__}{', bidirectional' if hasattr(encoder, 'latents') else ''}."
            )
        for name, value, known in (
            ("predictor", predictor, PREDICTORS),
            ("objective", objective, OBJECTIVES),
            ("negatives", negatives, (*SOURCES, "hard")),
            ("score", score, SCORES),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}.")
        for name, number in (
            ("num_negatives", num_negatives),
            ("hard_pool_factor", hard_pool_factor),
            ("negatives_at_a_time", negatives_at_a_time),
        ):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}.")
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        self.head = PREDICTORS[predictor](
            context_dim=encoder.output_dim, latent_dim=encoder.latent_dim, num_steps=num_steps
        )
        self.predictor, self.objective = predictor, objective
        self.num_negatives, self.negatives, self.hard_pool_factor = num_negatives, negatives, hard_pool_factor
        self.score, self.temperature, self.negatives_at_a_time = score, temperature, negatives_at_a_time
        self.clean_targets, self.diversity_weight = clean_targets, diversity_weight
        if encoder_from is not None:
            load_pretrained_encoder(encoder_from, front_end, encoder)

    @property
    def loss_of_guessing(self) -> float:
        """Of an encoder whose predictions score all candidates alike, where that score is 0."""
        candidates = 1 + self.num_negatives
        return math.log(candidates) if self.objective == "infonce" else candidates * math.log(2)

    def forward(
        self,
        waveform: Tensor,
        lengths: Tensor,
        *,
        speakers: Tensor | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Contrast:
        """The loss and accuracy of each utterance.

        Args:
            waveform: (B, N) in [-1, 1].
            lengths: (B,) in samples.
            speakers: (B,) codes, for negatives of the same speaker.
            seeds: B of them, for the draw of negatives; none draws from torch's generator.
        """
        latents, frames = self.encoder.latents(*self.front_end(waveform, lengths))
        latents, codes = self._quantize(latents, frames, seeds)
        context, _ = self.encoder.context(latents, frames)
        targets = latents
        if self.clean_targets and self.training:  # `forward` itself: the seam's hooks do not see this call
            targets, _ = self.encoder.latents(*self.front_end.forward(waveform, lengths))
            targets, clean_codes = self._quantize(targets, frames, seeds)
            if codes is not None and clean_codes is not None:
                codes = CodeUse(*((seen + clean) / 2 for seen, clean in zip(codes, clean_codes, strict=True)))
        with torch.autocast(waveform.device.type, enabled=False):
            contrast = self._contrast(self.head(context.float()), targets.float(), frames, speakers, seeds)
        return Contrast(contrast, codes)

    def _quantize(self, latents: Tensor, frames: Tensor, seeds: Sequence[int] | None) -> tuple[Tensor, CodeUse | None]:
        """What the context reads: code words of a `QuantizedEncoder`, latents (B, T', D) of any other."""
        if not hasattr(self.encoder, "quantize"):
            return latents, None
        quantized = self.encoder.quantize(latents, frames, step=self.global_step, seeds=seeds_for("codes", seeds))
        return quantized.vectors, code_use(quantized, frames, joined=self.training)

    def _contrast(
        self, predictions: Tensor, latents: Tensor, frames: Tensor, speakers: Tensor | None, seeds: Sequence[int] | None
    ) -> InfoNCE | NCE:
        is_hard = self.negatives == "hard"
        options: dict[str, Any] = {"num_hardest": self.num_negatives} if is_hard else {}
        of_utterances, own = frames, None
        if self.negatives != "same_utterance":
            options["candidates"], of_utterances, own, speakers = join_ranks(latents, frames, speakers)
        pool = draw_negatives(
            of_utterances,
            self.num_negatives * (self.hard_pool_factor if is_hard else 1),
            source="mixed" if is_hard else self.negatives,
            own=own,
            speakers=speakers,
            seeds=seeds,
        )
        return OBJECTIVES[self.objective](
            predictions,
            latents,
            frames,
            pool,
            temperature=self.temperature,
            score=self.score,
            chunk_size=self.negatives_at_a_time,
            **options,
        )

    def compare(self, batch: SpeechBatch) -> Contrast:
        speakers = None
        if self.negatives == "same_speaker":
            speakers = speaker_codes(batch.speakers, batch.ids).to(batch.lengths.device)
        return self(batch.waveform, batch.lengths, speakers=speakers, seeds=batch.seeds)

    def why_skipped(self, num_frames: int) -> str:
        return (
            f"{num_frames} frames are too short to predict any"
            if num_frames < 2
            else f"no negatives ({self.negatives}) in its batch"
        )

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        """The mean over the joined batch of each utterance's loss, with what a codebook adds."""
        return self.step_loss(batch, *self.compare(batch))

    def bundle(self, card: str = "") -> Bundle:
        """The pretrained encoder and its front end."""
        return Bundle(self.front_end, self.encoder, card=card)
