"""The head of wav2vec 2.0's pretraining: contexts and quantized latents meet in one space."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from speechkit.codebooks import Quantized


class MaskedPredictionHead(nn.Module):
    """Projects the context of masked frames, and their quantized latents (Baevski et al. 2020, arXiv 2006.11477).

    Args:
        codebook: quantizes latents; see `speechkit.codebooks`.
        context_dim: D of the context.
        output_dim: of the space in which they are compared.
    """

    def __init__(self, *, codebook: nn.Module, context_dim: int, output_dim: int = 256) -> None:
        super().__init__()
        self.context_dim, self.output_dim = context_dim, output_dim
        self.codebook: Any = codebook
        self.predict = nn.Linear(context_dim, output_dim)
        self.project = nn.Linear(codebook.output_dim, output_dim)

    def forward(
        self, context: Tensor, latents: Tensor, *, step: int | None = None, seeds: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor, Quantized]:
        """c (B, M, context_dim), z (B, M, C) -> predictions and targets (B, M, output_dim), and the codes."""
        quantized = self.codebook(latents, step=step, seeds=seeds)
        return self.predict(context), self.project(quantized.vectors), quantized
