"""Cutout: random rectangles of the features, in time and frequency at once, are masked."""

import torch
from torch import Tensor

from speechkit.callbacks.composition import Order
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.ramp import Ramp, check_share, value_at
from speechkit.callbacks.spec_augment import random_spans


class Cutout(FeatureAugmentation):
    """Masks rectangles of the seam `front_end` with zeros, which is the mean after CMVN.

    DeVries and Taylor 2017 (arXiv 1708.04552) on spectrograms, as Kriman et al. 2020 (arXiv 1910.10261, section 3.2)
    train QuartzNet with five of them. Where SpecAugment takes a whole frame or a whole bin away, something of every
    frame and of every bin is left, so it is gentle on short words. For sequences: rectangles lie within the utterance,
    none is wider than a share of it (wider ones are cut down), and the text stays.

    Args:
        num_rectangles: of each utterance.
        max_frames: longest of them.
        max_bins: highest of them, at most all bins.
        max_time_fraction: longest of them as a share of the utterance.
        strength: both sides are multiplied by it; in [0, 1].

    Raises:
        ValueError: a negative count or side, or a share outside [0, 1].
    """

    order = Order.MASK

    def __init__(
        self,
        num_rectangles: int = 5,
        max_frames: int = 40,
        max_bins: int = 15,
        *,
        max_time_fraction: float = 0.25,
        strength: float | Ramp = 1.0,
    ) -> None:
        for name, value in (("num_rectangles", num_rectangles), ("max_frames", max_frames), ("max_bins", max_bins)):
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        check_share("max_time_fraction", max_time_fraction)
        check_share("strength", strength)
        self.num_rectangles, self.max_frames, self.max_bins = num_rectangles, max_frames, max_bins
        self.max_time_fraction, self.strength = max_time_fraction, strength

    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, T, F) with rectangles set to 0."""
        strength = value_at(self.strength, self.progress)
        if self.num_rectangles == 0 or strength == 0.0:
            return features
        num_frames, num_bins = features.shape[1:]
        longest = (lengths * (strength * self.max_time_fraction)).clamp(max=strength * self.max_frames).floor()
        highest = torch.full_like(lengths, min(round(strength * self.max_bins), num_bins))
        bins = torch.full_like(lengths, num_bins)
        time = random_spans(lengths, num_frames, num_spans=self.num_rectangles, widest=longest)
        frequency = random_spans(bins, num_bins, num_spans=self.num_rectangles, widest=highest)
        covered = torch.bmm(time.transpose(1, 2).to(features.dtype), frequency.to(features.dtype))
        return features.masked_fill(covered > 0, 0.0)
