"""FilterAugment: a random smooth filter over each utterance, as other microphones, rooms and voices have."""

import math

import torch
from torch import Tensor

from speechkit.callbacks.composition import Order
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.ramp import Ramp, check_share, value_at


class FilterAugment(FeatureAugmentation):
    """Adds a random smooth curve over the bins to all frames of an utterance.

    On log-mel features an addition is a linear filter (Nam et al. 2022, arXiv 2110.03282). Here the curve is a sum of
    the lowest cosines over the axis, so it is what a channel does to the first cepstra; the zeroth is the level.

    Args:
        num_cosines: how many, from the constant one up: smoothness.
        std: standard deviation of each one's weight, in units of the features (of their deviation, after CMVN).
        strength: `std` is multiplied by it; in [0, 1].

    Raises:
        ValueError: fewer than one cosine, a negative deviation, or a strength outside [0, 1]; at the start, a front
            end of cepstra or with differences.
    """

    order = Order.FILTER
    needs_frequencies = True

    def __init__(self, num_cosines: int = 4, std: float = 0.3, strength: float | Ramp = 1.0) -> None:
        if num_cosines < 1:
            raise ValueError(f"`num_cosines` must be positive, got {num_cosines}.")
        if std < 0:
            raise ValueError(f"`std` must not be negative, got {std}.")
        check_share("strength", strength)
        self.num_cosines, self.std, self.strength = num_cosines, std, strength

    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, T, F)."""
        std = self.std * value_at(self.strength, self.progress)
        if std == 0.0:
            return features
        batch, _, num_bins = features.shape
        bins = torch.arange(num_bins, device=features.device) + 0.5
        order = torch.arange(self.num_cosines, device=features.device)
        cosines = torch.cos(math.pi / num_bins * order[:, None] * bins)
        weights = std * torch.randn(batch, 1, self.num_cosines, device=features.device)
        return features + (weights @ cosines).to(features.dtype)
