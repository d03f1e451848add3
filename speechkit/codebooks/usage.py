"""How evenly the codes of a codebook are used, over the frames of a batch and of all ranks."""

from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from speechkit.codebooks.quantized import Quantized
from speechkit.masking import length_mask, mean_over_frames


class CodeUse(NamedTuple):
    """What a batch's frames do with a codebook."""

    loss: Tensor  # (B,) the codebook's own, mean over an utterance's frames
    usage: Tensor  # (G, V) shares of the codes that were chosen, without gradient
    soft_usage: Tensor  # (G, V) the same of their probabilities, with gradient


def code_use(quantized: Quantized, lengths: Tensor, *, joined: bool) -> CodeUse:
    """Over the real frames of a batch.

    Args:
        quantized: of frames (B, T).
        lengths: (B,) how many of them are real.
        joined: usage is that of the batches of all ranks, with gradients, if there are several.
    """
    codes, probabilities = quantized.codes, quantized.probabilities
    real = length_mask(lengths, codes.shape[1])[:, :, None, None]
    chosen = F.one_hot(codes, probabilities.shape[-1]).to(probabilities.dtype)
    sums = torch.stack([(chosen * real).sum(dim=(0, 1)), (probabilities * real).sum(dim=(0, 1))])
    count = lengths.sum().to(sums.dtype).reshape(1)
    if joined and torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.nn.functional import all_reduce

        sums, count = all_reduce(sums), all_reduce(count)
    usage, soft_usage = sums / count.clamp(min=1)
    return CodeUse(mean_over_frames(quantized.loss, lengths), usage.detach(), soft_usage)


def perplexity(usage: Tensor) -> Tensor:
    """exp of the entropy of each group's codes, from 1 (collapsed) to V (all used alike): (..., G, V) -> (..., G).

    Args:
        usage: shares of the codes, averaged over frames; each group sums to 1.
    """
    return torch.exp(-(usage * torch.log(usage + 1e-7)).sum(dim=-1))


def diversity_loss(usage: Tensor) -> Tensor:
    """The share of codes that are not used, 1 - sum of perplexities / (G V): (G, V) -> a number in [0, 1).

    The purpose is that of Baevski et al. 2020 (arXiv 2006.11477), equation 4, which maximises the entropy itself; this
    is the form that fairseq and Hugging Face train with.
    """
    return 1.0 - perplexity(usage).sum() / usage.numel()
