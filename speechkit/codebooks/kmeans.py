"""Product quantizer that chooses the nearest code word."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.codebooks.quantized import Quantized, check_sizes, chosen_words


class KMeansCodebook(nn.Module):
    """The nearest code word of each group, straight through (van den Oord et al. 2017, arXiv 1711.00937, equation 3).

    `loss` is the code words' distance to the latents plus `commitment` times the latents' distance to the code words,
    each with the gradient of one side only. vq-wav2vec (Baevski et al. 2020, arXiv 1910.05453) uses it in groups.

    Args:
        input_dim: C of the latents.
        num_codes: V, in each group.
        num_groups: G.
        output_dim: D, a multiple of G.
        commitment: weight of the second distance.

    Raises:
        ValueError: sizes that do not fit, or a negative weight.
    """

    def __init__(
        self,
        *,
        input_dim: int,
        num_codes: int = 320,
        num_groups: int = 2,
        output_dim: int = 256,
        commitment: float = 0.25,
    ) -> None:
        super().__init__()
        check_sizes(num_codes, num_groups, output_dim)
        if output_dim < 2 * num_groups:  # a group of one number has no variance to normalise by
            raise ValueError(f"`output_dim` must be at least twice `num_groups` {num_groups}, got {output_dim}.")
        if commitment < 0.0:
            raise ValueError(f"`commitment` must not be negative, got {commitment}.")
        self.input_dim, self.num_codes, self.num_groups, self.output_dim = input_dim, num_codes, num_groups, output_dim
        self.commitment = commitment
        self.projection = nn.Linear(input_dim, output_dim, bias=False)
        self.codewords = nn.Parameter(torch.randn(num_groups, num_codes, output_dim // num_groups))

    def forward(self, x: Tensor, *, step: int | None = None, seeds: Sequence[int] | None = None) -> Quantized:
        """Latents (..., C) -> vectors (..., D), codes (..., G), probabilities (..., G, V), loss (...).

        Each group of the projected latents has mean 0 and variance 1, the scale that the code words begin with. The
        probabilities are the softmax of negative squared distances. Nothing is drawn: `step` and `seeds`, which
        `GumbelCodebook` has use for, change nothing.
        """
        z = self.projection(x).unflatten(-1, (self.num_groups, -1))
        z = F.layer_norm(z, z.shape[-1:])
        products = torch.einsum("...gd,gvd->...gv", z, self.codewords)
        distances = z.square().sum(dim=-1, keepdim=True) - 2 * products + self.codewords.square().sum(dim=-1)
        codes = distances.argmin(dim=-1)
        words, z = chosen_words(self.codewords, codes), z.flatten(-2)
        loss = (words - z.detach()).square().mean(dim=-1)
        loss = loss + self.commitment * (words.detach() - z).square().mean(dim=-1)
        return Quantized(z + (words - z).detach(), codes, (-distances).softmax(dim=-1), loss)
