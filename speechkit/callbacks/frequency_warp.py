"""Frequency warp: the mel axis is stretched and shifted at random, as another vocal tract would do."""

import torch
from torch import Tensor

from speechkit.callbacks.composition import Order
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.ramp import Ramp, check_share, value_at


def warp_bins(features: Tensor, stretch: Tensor, shift: Tensor) -> Tensor:
    """Reads each utterance at other places of its frequency axis, linearly between bins, the edge bins beyond.

    Args:
        features: (B, T, F) along a mel (or any) frequency axis.
        stretch: (B,) bin k of the result is read at (k - c) * stretch + c + shift, where c = (F - 1) / 2.
        shift: (B,) in bins.

    Returns:
        (B, T, F).
    """
    num_bins = features.shape[-1]
    center = (num_bins - 1) / 2
    offset = torch.arange(num_bins, device=features.device) - center
    place = (offset * stretch[:, None] + center + shift[:, None]).clamp(0, num_bins - 1)
    below = place.floor().clamp(max=max(0, num_bins - 2))
    matrix = torch.nn.functional.one_hot(below.long(), num_bins) * (1 - (place - below))[..., None]
    if num_bins > 1:
        matrix = matrix + torch.nn.functional.one_hot(below.long() + 1, num_bins) * (place - below)[..., None]
    return torch.bmm(features, matrix.to(features.dtype).transpose(1, 2))


class FrequencyWarp(FeatureAugmentation):
    """Warps the output of the seam `front_end`, a new draw for each utterance and step.

    Vocal tract length perturbation (Jaitly and Hinton 2013) on the mel axis, where a longer or shorter tract is a
    shift. For log-mel features: the axis of cepstra is no frequency, and differences begin it anew.

    Args:
        max_stretch: largest relative stretch of the axis.
        max_shift: largest shift as a share of the axis.
        strength: both are multiplied by it; in [0, 1].

    Raises:
        ValueError: an amount outside [0, 0.5], or a strength outside [0, 1]; at the start, a front end of cepstra or
            with differences.
    """

    order = Order.WARP
    needs_frequencies = True

    def __init__(self, max_stretch: float = 0.1, max_shift: float = 0.05, strength: float | Ramp = 1.0) -> None:
        for name, value in (("max_stretch", max_stretch), ("max_shift", max_shift)):
            if not 0.0 <= value <= 0.5:
                raise ValueError(f"`{name}` must lie in [0, 0.5], got {value}.")
        check_share("strength", strength)
        self.max_stretch, self.max_shift, self.strength = max_stretch, max_shift, strength

    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, T, F)."""
        strength = value_at(self.strength, self.progress)
        if self.max_stretch == self.max_shift == 0.0 or strength == 0.0:
            return features
        draw = strength * (2 * torch.rand(2, len(lengths), device=features.device) - 1)
        return warp_bins(features, 1 + self.max_stretch * draw[0], self.max_shift * features.shape[-1] * draw[1])
