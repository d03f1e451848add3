"""Codebooks: latents (..., C) -> quantized vectors, codes, and how evenly the codes are used."""

from speechkit.codebooks.gumbel import GumbelCodebook
from speechkit.codebooks.kmeans import KMeansCodebook
from speechkit.codebooks.quantized import Quantized, diversity_loss, joined_codes, perplexity

__all__ = ["GumbelCodebook", "KMeansCodebook", "Quantized", "diversity_loss", "joined_codes", "perplexity"]
