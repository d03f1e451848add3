"""vq-wav2vec's encoder: what the context sees, and what is predicted, are code words instead of latents."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.codebooks import Quantized
from speechkit.masking import zero_padding


class QuantizedEncoder(nn.Module):
    """Puts a codebook between an encoder's latents and its context (Baevski et al. 2020, arXiv 1910.05453).

    It sees of its input what the encoder alone sees, and streams as that does: a frame is quantized by itself.
    Fine-tuning reads the likeliest code words and learns through them; pretraining draws them, where the codebook does.

    Args:
        encoder: one with `latents` and a causal `context`, such as `Wav2VecEncoder` or `ConvGRUEncoder`.
        codebook: quantizes latents; its vectors are as wide as they are.

    Raises:
        ValueError: an encoder that sees the future or has no latents, or a codebook of another width.
    """

    def __init__(self, *, encoder: nn.Module, codebook: nn.Module) -> None:
        super().__init__()
        if not hasattr(encoder, "latents") or getattr(encoder, "bidirectional", False):
            raise ValueError(f"`encoder` must have latents and a causal context, got {type(encoder).__name__}.")
        for name in ("input_dim", "output_dim"):
            if getattr(codebook, name) != encoder.latent_dim:
                raise ValueError(
                    f"`codebook.{name}` must be the latents' {encoder.latent_dim}, got {getattr(codebook, name)}."
                )
        self.encoder: Any = encoder
        self.codebook: Any = codebook

    @property
    def input_dim(self) -> int:
        return self.encoder.input_dim

    @property
    def output_dim(self) -> int:
        return self.encoder.output_dim

    @property
    def latent_dim(self) -> int:
        return self.encoder.latent_dim

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) frames in -> (B,) frames out."""
        return self.encoder.output_lengths(lengths)

    def latents(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> z (B, T', latent_dim), (B,), not yet quantized."""
        return self.encoder.latents(x, lengths)

    def quantize(
        self, latents: Tensor, lengths: Tensor, *, step: int | None = None, seeds: Sequence[int] | None = None
    ) -> Quantized:
        """Code words of latents, in float32 also under autocast.

        Args:
            latents: (B, T', latent_dim).
            lengths: (B,); beyond them the vectors are zero.
            step: of pretraining, for codebooks that draw; none takes the likeliest codes.
            seeds: B of them, for the draw; none draws from torch's generator of the device.
        """
        with torch.autocast(latents.device.type, enabled=False):
            quantized = self.codebook(latents.float(), step=step, seeds=seeds)
        return quantized._replace(vectors=zero_padding(quantized.vectors, lengths))

    def context(self, latents: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized z (B, T', latent_dim), (B,) -> c (B, T', output_dim), (B,); zero beyond each length."""
        return self.encoder.context(latents, lengths)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> c (B, T', output_dim), (B,)."""
        latents, lengths = self.latents(x, lengths)
        quantized = self.quantize(latents, lengths)
        nothing = 0.0 * quantized.loss[:, :, None]  # so that code words take part: DDP waits for all parameters
        return self.context(quantized.vectors + nothing, lengths)
