"""What a product quantizer gives: vectors, codes, and how near each code was to being chosen."""

from typing import NamedTuple

import torch
from torch import Tensor


class Quantized(NamedTuple):
    """G groups of V codes each; the vector is the groups' code words, joined."""

    vectors: Tensor  # (..., D)
    codes: Tensor  # (..., G) in [0, V)
    probabilities: Tensor  # (..., G, V) how near each code was to being chosen; with gradient
    loss: Tensor  # (...,) what the codebook itself adds to the training's loss


def joined_codes(codes: Tensor, num_codes: int) -> Tensor:
    """One integer for the codes of all groups: (..., G) in [0, num_codes) -> (...); equal where all of them are."""
    place_values = num_codes ** torch.arange(codes.shape[-1], device=codes.device)
    return (codes * place_values).sum(dim=-1)


def check_sizes(num_codes: int, num_groups: int, output_dim: int) -> None:
    """Raises ValueError where a product quantizer cannot have these sizes."""
    if num_codes < 2 or num_groups < 1:
        raise ValueError(
            f"`num_codes` must be at least 2 and `num_groups` at least 1, got {num_codes} and {num_groups}."
        )
    if output_dim % num_groups:
        raise ValueError(f"`num_groups` must divide `output_dim` {output_dim}, got {num_groups}.")


def chosen_words(codewords: Tensor, codes: Tensor) -> Tensor:
    """Code words (G, V, D / G) of codes (..., G), joined: (..., D)."""
    groups = torch.arange(codewords.shape[0], device=codes.device)
    return codewords[groups, codes].flatten(-2)
