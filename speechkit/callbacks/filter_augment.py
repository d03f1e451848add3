"""FilterAugment: a random smooth filter over each utterance, as other microphones, rooms and voices have."""

import math

import torch
from torch import Tensor

from speechkit.callbacks.composition import Order
from speechkit.callbacks.feature_augmentation import FeatureAugmentation


class FilterAugment(FeatureAugmentation):
    """Adds a random smooth curve over the bins to all frames of an utterance.

    On log-mel features an addition is a linear filter (Nam et al. 2022, arXiv 2110.03282). Here the curve is a sum of
    the lowest cosines over the axis, so it is what a channel does to the first cepstra; the zeroth is the level.

    Args:
        num_cosines: how many, from the constant one up: smoothness.
        std: standard deviation of each one's weight, in units of the features (of their deviation, after CMVN).

    Raises:
        ValueError: fewer than one cosine, or a negative deviation; at the start, a front end of cepstra or with
            differences.
    """

    order = Order.FILTER
    needs_frequencies = True

    def __init__(self, num_cosines: int = 4, std: float = 0.3) -> None:
        if num_cosines < 1:
            raise ValueError(f"`num_cosines` must be positive, got {num_cosines}.")
        if std < 0:
            raise ValueError(f"`std` must not be negative, got {std}.")
        self.num_cosines, self.std = num_cosines, std

    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, T, F)."""
        if self.std == 0.0:
            return features
        batch, _, num_bins = features.shape
        bins = torch.arange(num_bins, device=features.device) + 0.5
        order = torch.arange(self.num_cosines, device=features.device)
        cosines = torch.cos(math.pi / num_bins * order[:, None] * bins)
        weights = self.std * torch.randn(batch, 1, self.num_cosines, device=features.device)
        return features + (weights @ cosines).to(features.dtype)
