"""SpecAugment: spans of frames and of mel bins are masked, a new draw for each utterance and step."""

from typing import Any

import torch
from torch import Tensor

from speechkit.callbacks.composition import Order
from speechkit.callbacks.feature_augmentation import FeatureAugmentation


def span_mask(limits: Tensor, size: int, *, num_spans: int, widest: Tensor) -> Tensor:
    """True inside `num_spans` random spans of each row.

    Args:
        limits: (B,) where rows end.
        size: length of a row.
        num_spans: spans a row.
        widest: (B,) largest width; widths are uniform in [0, widest].

    Returns:
        (B, size) bool.
    """
    device = limits.device
    draw = torch.rand(2, len(limits), num_spans, device=device)
    width = (draw[0] * (widest[:, None] + 1)).floor()
    start = (draw[1] * (limits[:, None] - width + 1).clamp(min=0)).floor()
    position = torch.arange(size, device=device)[None, None, :]
    return ((position >= start[..., None]) & (position < (start + width)[..., None])).any(dim=1)


class SpecAugment(FeatureAugmentation):
    """Masks the output of the seam `front_end` with zeros, which is the mean after CMVN.

    Park et al. 2019 (arXiv 1904.08779), sections 2 and 3, with the adaptive bound on time masks of Park et al. 2020
    (arXiv 1912.05533): no more than a share of the utterance, so short ones survive.

    Args:
        num_frequency_masks: masks over bins.
        max_bins: widest of them.
        num_time_masks: masks over frames.
        max_frames: widest of them.
        max_time_fraction: widest of them as a share of the utterance.

    Raises:
        ValueError: a negative count or width, or a share outside [0, 1].
    """

    order = Order.MASK

    def __init__(
        self,
        num_frequency_masks: int = 2,
        max_bins: int = 15,
        num_time_masks: int = 2,
        max_frames: int = 50,
        max_time_fraction: float = 0.15,
    ) -> None:
        for name, value in (
            ("num_frequency_masks", num_frequency_masks),
            ("max_bins", max_bins),
            ("num_time_masks", num_time_masks),
            ("max_frames", max_frames),
        ):
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        if not 0.0 <= max_time_fraction <= 1.0:
            raise ValueError(f"`max_time_fraction` must lie in [0, 1], got {max_time_fraction}.")
        self.num_frequency_masks, self.max_bins = num_frequency_masks, max_bins
        self.num_time_masks, self.max_frames, self.max_time_fraction = num_time_masks, max_frames, max_time_fraction

    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, T, F) with masked spans set to 0."""
        num_frames, num_bins = features.shape[1:]
        widest_time = (lengths * self.max_time_fraction).clamp(max=self.max_frames).floor()
        time = span_mask(lengths, num_frames, num_spans=self.num_time_masks, widest=widest_time)
        bins = torch.full_like(lengths, num_bins)
        widest_bins = torch.full_like(lengths, min(self.max_bins, num_bins))
        frequency = span_mask(bins, num_bins, num_spans=self.num_frequency_masks, widest=widest_bins)
        masked: Any = time[:, :, None] | frequency[:, None, :]
        return features.masked_fill(masked, 0.0)
