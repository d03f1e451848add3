"""How far apart two views of an utterance are, frame by frame, in what a CTC head says of them."""

import torch
from torch import Tensor

from speechkit.masking import length_mask


def frame_divergence(
    logits: Tensor,
    target_logits: Tensor,
    lengths: Tensor,
    *,
    min_confidence: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """Kullback-Leibler divergence KL(target || view) of the posteriors of each frame, summed over frames.

    The target is a constant: no gradient goes through it (Xie et al. 2019, arXiv 1904.12848, equation 1).

    Args:
        logits: (B, T, V) of the view that learns.
        target_logits: (B, T, V) of the view that teaches.
        lengths: (B,) frames.
        min_confidence: frames count where the target's likeliest symbol has at least this probability.
        temperature: that the target's logits are divided by; below 1 it sharpens them.

    Returns:
        (B,) in nats, float32 (float64 for float64 logits).

    Raises:
        ValueError: views of different shapes, or a temperature that is not positive.
    """
    if not temperature > 0.0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    if logits.shape != target_logits.shape:
        raise ValueError(
            f"`target_logits` must have the shape of `logits`, {tuple(logits.shape)}, got {tuple(target_logits.shape)}."
        )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    target_logits = target_logits.detach().to(dtype)
    target = (target_logits / temperature).log_softmax(dim=-1)
    divergence = (target.exp() * (target - logits.to(dtype).log_softmax(dim=-1))).sum(dim=-1)
    counts = length_mask(lengths, logits.shape[1])
    if min_confidence > 0:
        counts = counts & (target_logits.softmax(dim=-1).amax(dim=-1) >= min_confidence)
    return divergence.masked_fill(~counts, 0.0).sum(dim=1)
