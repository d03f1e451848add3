"""Product quantizer that chooses codes by a straight-through Gumbel softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.codebooks.quantized import Quantized, check_sizes, chosen_words


class GumbelCodebook(nn.Module):
    """In training a code is drawn, and its gradient is that of a softmax (Jang et al. 2017, arXiv 1611.01144).

    In evaluation the likeliest code is taken. The product of groups and the temperature that falls with the steps are
    those of Baevski et al. 2020 (arXiv 2006.11477).

    Args:
        input_dim: C of the latents.
        num_codes: V, in each group.
        num_groups: G.
        output_dim: D, a multiple of G.
        first_temperature: of the softmax, at step 0.
        last_temperature: below which it does not fall.
        temperature_factor: by which each step multiplies it.

    Raises:
        ValueError: sizes that do not fit, or temperatures that are not positive and falling.
    """

    def __init__(
        self,
        *,
        input_dim: int,
        num_codes: int = 320,
        num_groups: int = 2,
        output_dim: int = 256,
        first_temperature: float = 2.0,
        last_temperature: float = 0.5,
        temperature_factor: float = 0.999995,
    ) -> None:
        super().__init__()
        check_sizes(num_codes, num_groups, output_dim)
        if not 0.0 < last_temperature <= first_temperature:
            raise ValueError(
                f"`last_temperature` must lie in (0, {first_temperature}], up to the first one, got {last_temperature}."
            )
        if not 0.0 < temperature_factor <= 1.0:
            raise ValueError(f"`temperature_factor` must lie in (0, 1], got {temperature_factor}.")
        self.input_dim, self.num_codes, self.num_groups, self.output_dim = input_dim, num_codes, num_groups, output_dim
        self.first_temperature, self.last_temperature = first_temperature, last_temperature
        self.temperature_factor = temperature_factor
        self.projection = nn.Linear(input_dim, num_groups * num_codes)
        self.codewords = nn.Parameter(torch.rand(num_groups, num_codes, output_dim // num_groups))
        nn.init.normal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def temperature(self, step: int) -> float:
        """Of the softmax after `step` optimizer steps."""
        return max(self.last_temperature, self.first_temperature * self.temperature_factor**step)

    def forward(self, x: Tensor, *, step: int = 0) -> Quantized:
        """Latents (..., C) -> vectors (..., D), codes (..., G), probabilities (..., G, V), loss 0 (...)."""
        logits = self.projection(x).unflatten(-1, (self.num_groups, self.num_codes))
        if self.training:
            choice = F.gumbel_softmax(logits, tau=self.temperature(step), hard=True)
            codes = choice.argmax(dim=-1)
            vectors = torch.einsum("...gv,gvd->...gd", choice, self.codewords).flatten(-2)
        else:
            codes = logits.argmax(dim=-1)
            vectors = chosen_words(self.codewords, codes)
        return Quantized(vectors, codes, logits.softmax(dim=-1), x.new_zeros(x.shape[:-1]))
