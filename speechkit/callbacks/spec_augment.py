"""SpecAugment: time is warped, spans of frames and of mel bins are masked, a new draw for each utterance and step."""

from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor

from speechkit.callbacks.composition import Order
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.ramp import Ramp, check_share, value_at

POLICY_BINS = 80  # that the widths of the policies were meant for


class Policy(NamedTuple):
    """What Park et al. 2019, table 1, call W, m_F, F, m_T, T (in frames of 10 ms) and p."""

    max_warp_frames: int
    num_frequency_masks: int
    max_bins: int
    num_time_masks: int
    max_frames: int
    max_time_fraction: float


DEFAULTS = Policy(0, 2, 15, 2, 50, 0.15)
POLICIES = {
    "LB": Policy(80, 1, 27, 1, 100, 1.0),
    "LD": Policy(80, 2, 27, 2, 100, 1.0),
    "SM": Policy(40, 2, 15, 2, 70, 0.2),
    "SS": Policy(40, 2, 27, 2, 70, 0.2),
}


def random_spans(limits: Tensor, size: int, *, num_spans: int, widest: Tensor, counts: Tensor | None = None) -> Tensor:
    """True inside each of `num_spans` random spans of each row.

    Args:
        limits: (B,) where rows end.
        size: length of a row.
        num_spans: spans a row.
        widest: (B,) largest width; widths are uniform in [0, widest].
        counts: (B,) how many of a row's spans are not empty; None: all.

    Returns:
        (B, num_spans, size) bool.
    """
    device = limits.device
    draw = torch.rand(2, len(limits), num_spans, device=device)
    width = (draw[0] * (widest[:, None] + 1)).floor()
    if counts is not None:
        width = width.where(torch.arange(num_spans, device=device) < counts[:, None], 0.0)
    start = (draw[1] * (limits[:, None] - width + 1).clamp(min=0)).floor()
    position = torch.arange(size, device=device)[None, None, :]
    return (position >= start[..., None]) & (position < (start + width)[..., None])


def span_mask(limits: Tensor, size: int, *, num_spans: int, widest: Tensor, counts: Tensor | None = None) -> Tensor:
    """True inside any span of `random_spans`: (B, size) bool."""
    return random_spans(limits, size, num_spans=num_spans, widest=widest, counts=counts).any(dim=1)


def warp_time(features: Tensor, lengths: Tensor, point: Tensor, shift: Tensor) -> Tensor:
    """Moves a point of each utterance in time; what is before and behind it is stretched to fit, ends stay in place.

    Park et al. 2019 (section 2) warp the spectrogram as an image, by a sparse spline with fixed corners; along time
    alone that is this piecewise linear map. Frames are read linearly between neighbours.

    Args:
        features: (B, T, F).
        lengths: (B,) frames.
        point: (B,) a time in frames, in [0, lengths - 1].
        shift: (B,) where it goes, in frames; point + shift in [0, lengths - 1].

    Returns:
        (B, T, F); what is beyond each length means nothing.
    """
    batch, num_frames, num_features = features.shape
    time = torch.arange(num_frames, device=features.device, dtype=torch.float32)
    last, point, target = (lengths - 1)[:, None], point[:, None], (point + shift)[:, None]
    before = time * point / target.clamp(min=1e-3)
    behind = last - (last - time) * (last - point) / (last - target).clamp(min=1e-3)
    place = torch.where(time < target, before, behind).clamp(min=0).minimum(last.clamp(min=0))
    below = place.floor()
    rows = torch.arange(batch, device=features.device)[:, None] * num_frames
    index = (rows + below.long()).flatten()
    above = (rows + (below.long() + 1).minimum(last.clamp(min=0))).flatten()
    flat = features.reshape(-1, num_features)
    between = (place - below).to(features.dtype).reshape(-1, 1)
    return torch.lerp(flat[index], flat[above], between).view_as(features)


class SpecAugment(FeatureAugmentation):
    """Warps the output of the seam `front_end` in time, then masks it with zeros, which is the mean after CMVN.

    Park et al. 2019 (arXiv 1904.08779), sections 2 and 3, with the adaptive bounds on time masks of Park et al. 2020
    (arXiv 1912.05533): no wider than a share of the utterance, and no more of them than its length allows, so short
    ones survive. So no mask is wider than its utterance, and no warp moves a point by more than a quarter of it: what
    asks for more is cut down to that. The order is that of the paper; texts and lengths stay.

    Args:
        policy: of the paper, "LB", "LD", "SM" or "SS", whose `max_bins` is scaled from 80 bins to the features'.
            Arguments that are given go before it; without a policy, defaults are no warp, two masks of at most 15 bins
            and two of at most 50 frames and 0.15 of the utterance.
        num_frequency_masks: masks over bins.
        max_bins: widest of them.
        num_time_masks: masks over frames; with `time_masks_per_frame`, at most.
        max_frames: widest of them.
        max_time_fraction: widest of them as a share of the utterance.
        max_warp_frames: how far a random point of the utterance is moved in time, at most.
        time_masks_per_frame: an utterance has as many time masks as this times its frames, rounded down; 0: all have
            `num_time_masks`. Park et al. 2020 take 0.04, with `num_time_masks` 20 and `max_time_fraction` 0.04.
        strength: all widths and the warp are multiplied by it; in [0, 1].

    Raises:
        ValueError: a negative count or width, a share outside [0, 1], or an unknown policy; at the start, frequency
            masks that can be as wide as the features.
    """

    order = Order.MASK

    def __init__(
        self,
        num_frequency_masks: int | None = None,
        max_bins: int | None = None,
        num_time_masks: int | None = None,
        max_frames: int | None = None,
        max_time_fraction: float | None = None,
        *,
        policy: str | None = None,
        max_warp_frames: int | None = None,
        time_masks_per_frame: float = 0.0,
        strength: float | Ramp = 1.0,
    ) -> None:
        if policy is not None and policy not in POLICIES:
            raise ValueError(f"`policy` must be one of {', '.join(POLICIES)}, got {policy!r}.")
        given = {
            "max_warp_frames": max_warp_frames,
            "num_frequency_masks": num_frequency_masks,
            "max_bins": max_bins,
            "num_time_masks": num_time_masks,
            "max_frames": max_frames,
            "max_time_fraction": max_time_fraction,
        }
        base = DEFAULTS if policy is None else POLICIES[policy]
        self.policy = base._replace(**{name: value for name, value in given.items() if value is not None})
        for name, value in self.policy._asdict().items():
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        check_share("max_time_fraction", self.policy.max_time_fraction)
        check_share("time_masks_per_frame", time_masks_per_frame)
        check_share("strength", strength)
        self.scales_bins = policy is not None and max_bins is None
        self.time_masks_per_frame, self.strength = time_masks_per_frame, strength

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        num_bins = getattr(pl_module.front_end, "num_features", None)
        if stage == "fit" and num_bins is not None and self.policy.num_frequency_masks:
            widest = self._max_bins(num_bins)
            if widest >= num_bins:
                raise ValueError(f"`max_bins` of SpecAugment must be below the {num_bins} features, got {widest}.")

    def _max_bins(self, num_bins: int) -> float:
        return self.policy.max_bins * (num_bins / POLICY_BINS if self.scales_bins else 1.0)

    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, T, F), warped, with masked spans set to 0."""
        strength = value_at(self.strength, self.progress)
        if strength == 0.0:
            return features
        if self.policy.max_warp_frames:
            features = self._warped(features, lengths, strength * self.policy.max_warp_frames)
        masked: Any = self._time_mask(features, lengths, strength) | self._frequency_mask(features, lengths, strength)
        return features.masked_fill(masked, 0.0)

    def _warped(self, features: Tensor, lengths: Tensor, furthest: float) -> Tensor:
        draw = torch.rand(2, len(lengths), device=features.device)
        last = (lengths - 1).clamp(min=0)
        bound = (last / 4).clamp(max=furthest)
        return warp_time(features, lengths, bound + draw[0] * (last - 2 * bound), (2 * draw[1] - 1) * bound)

    def _time_mask(self, features: Tensor, lengths: Tensor, strength: float) -> Tensor:
        """(B, T, 1)."""
        widest = (lengths * (strength * self.policy.max_time_fraction)).clamp(max=strength * self.policy.max_frames)
        counts = (lengths * self.time_masks_per_frame).floor() if self.time_masks_per_frame else None
        num_spans = self.policy.num_time_masks
        mask = span_mask(lengths, features.shape[1], num_spans=num_spans, widest=widest.floor(), counts=counts)
        return mask[:, :, None]

    def _frequency_mask(self, features: Tensor, lengths: Tensor, strength: float) -> Tensor:
        """(B, 1, F)."""
        num_bins = features.shape[2]
        widest_bins = torch.full_like(lengths, min(round(strength * self._max_bins(num_bins)), num_bins))
        bins = torch.full_like(lengths, num_bins)
        mask = span_mask(bins, num_bins, num_spans=self.policy.num_frequency_masks, widest=widest_bins)
        return mask[:, None, :]


def refuse_time_warp(own: lightning.Callback, trainer: Any) -> None:
    """Raises ValueError where a callback that takes frames by their time would take those of other moments."""
    for other in trainer.callbacks:
        if isinstance(other, SpecAugment) and (furthest := other.policy.max_warp_frames):
            name = type(own).__name__
            raise ValueError(
                f"`max_warp_frames` of SpecAugment must be 0 with {name}, which goes by frames, got {furthest}."
            )
