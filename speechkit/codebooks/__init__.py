"""Codebooks: latents (..., C) -> quantized vectors, codes, and how evenly the codes are used."""

from speechkit.codebooks.gumbel import GumbelCodebook
from speechkit.codebooks.kmeans import KMeansCodebook
from speechkit.codebooks.quantized import Quantized, joined_codes
from speechkit.codebooks.usage import CodeUse, code_use, diversity_loss, perplexity

__all__ = [
    "CodeUse",
    "GumbelCodebook",
    "KMeansCodebook",
    "Quantized",
    "code_use",
    "diversity_loss",
    "joined_codes",
    "perplexity",
]
