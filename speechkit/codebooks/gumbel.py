"""Product quantizer that chooses codes by a straight-through Gumbel softmax."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.codebooks.quantized import Quantized, check_sizes, chosen_words
from speechkit.seeding import random_uniform

_SMALLEST = 2.0**-25  # half a step of the uniform numbers, so that no logarithm is infinite


class GumbelCodebook(nn.Module):
    """In training a code is drawn, and its gradient is that of a softmax (Jang et al. 2017, arXiv 1611.01144).

    In evaluation, and in training that gives no step, the likeliest code is taken. The product of groups and the
    temperature that falls with the steps are those of Baevski et al. 2020 (arXiv 2006.11477).

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

    def forward(self, x: Tensor, *, step: int | None = None, seeds: Sequence[int] | None = None) -> Quantized:
        """Latents -> vectors, codes, probabilities, and loss 0.

        Args:
            x: (..., C).
            step: optimizer steps so far, for the temperature of the draw; none draws nothing (fine-tuning).
            seeds: B of them for x (B, T, C), so that an utterance's draw is the same on whatever rank it is; none draws
                from torch's generator of the device.
        """
        logits = self.projection(x).unflatten(-1, (self.num_groups, self.num_codes))
        probabilities = logits.softmax(dim=-1)
        loss = x.new_zeros(x.shape[:-1])
        if not self.training:
            codes = logits.argmax(dim=-1)
            return Quantized(chosen_words(self.codewords, codes), codes, probabilities, loss)
        soft = probabilities
        if step is not None:
            exponential = -random_uniform(logits.shape, seeds, logits.device).clamp(min=_SMALLEST).log()
            soft = ((logits - exponential.log()) / self.temperature(step)).softmax(dim=-1)
        codes = soft.argmax(dim=-1)
        choice = F.one_hot(codes, self.num_codes) - soft.detach() + soft
        return Quantized(
            torch.einsum("...gv,gvd->...gd", choice, self.codewords).flatten(-2), codes, probabilities, loss
        )
