"""Gaussian noise on the features, of a strength that differs between utterances."""

import torch
from torch import Tensor

from speechkit.callbacks.composition import Order
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.ramp import Ramp, check_share, value_at


class FeatureNoise(FeatureAugmentation):
    """Adds white Gaussian noise to features (Sietsma and Dow 1991, Neural Networks 4, 67-79).

    Args:
        max_std: the deviation of an utterance's noise is uniform in [0, max_std], in units of the features.
        strength: `max_std` is multiplied by it; in [0, 1].

    Raises:
        ValueError: a negative deviation, or a strength outside [0, 1].
    """

    order = Order.NOISE

    def __init__(self, max_std: float = 0.3, strength: float | Ramp = 1.0) -> None:
        if max_std < 0:
            raise ValueError(f"`max_std` must not be negative, got {max_std}.")
        check_share("strength", strength)
        self.max_std, self.strength = max_std, strength

    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, T, F)."""
        max_std = self.max_std * value_at(self.strength, self.progress)
        if max_std == 0.0:
            return features
        std = max_std * torch.rand(len(features), 1, 1, device=features.device, dtype=features.dtype)
        return features + std * torch.randn_like(features)
