"""Which frames of a padded batch are real. Every sequence module uses these, so padding never changes a result."""

import torch
from torch import Tensor


def length_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """True where a frame belongs to its sequence: lengths (B,) -> (B, num_frames)."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Sets frames beyond each length to zero: (B, T, F) -> (B, T, F)."""
    return x.masked_fill(~length_mask(lengths, x.shape[1])[:, :, None], 0.0)


def mean_over_frames(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean over each sequence's own frames, 0 where it has none: (B, T), (B,) -> (B,)."""
    return x.masked_fill(~length_mask(lengths, x.shape[1]), 0.0).sum(dim=1) / lengths.clamp(min=1)
