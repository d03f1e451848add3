"""Spans that a model must guess from their surroundings (Baevski et al. 2020, arXiv 2006.11477, section 3.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechkit.masking import length_mask
from speechkit.seeding import random_integers


def span_mask(
    lengths: Tensor,
    num_frames: int,
    *,
    start_probability: float,
    span_length: int,
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """Masks spans that begin at distinct random frames, at least one an utterance; spans may overlap.

    The number of spans is `start_probability` times the number of frames, rounded up or down at random so that it is
    right in the mean. In a short utterance a span is no longer than half of it, so that there mostly is something to
    guess from (two spans may still cover it); an utterance of one frame has no mask.

    Args:
        lengths: (B,) frames.
        num_frames: T, the width of the mask.
        start_probability: share of frames at which a span begins, in (0, 1].
        span_length: frames in a span.
        seeds: B of them, one for each utterance; none draws from torch's generator of the device.

    Returns:
        (B, T) bool, False beyond each length.

    Raises:
        ValueError: a probability outside its range, a span of less than one frame, or not B seeds.
    """
    if not 0.0 < start_probability <= 1.0:
        raise ValueError(f"`start_probability` must lie in (0, 1], got {start_probability}.")
    if span_length < 1:
        raise ValueError(f"`span_length` must be at least 1, got {span_length}.")
    device, batch = lengths.device, len(lengths)
    width = (lengths // 2).clamp(max=span_length)  # (B,)
    places = (lengths - width + 1) * (width > 0)  # where a span can begin
    numbers = random_integers((batch, 1 + num_frames), seeds, device)
    wanted = (start_probability * lengths + numbers[:, 0] / 2**62).floor().clamp(min=1)
    order = numbers[:, 1:].masked_fill(~length_mask(places, num_frames), 2**62).argsort(dim=1).argsort(dim=1)  # ranks
    starts = order < torch.minimum(wanted, places)[:, None]
    begun = starts.cumsum(dim=1)
    frame = torch.arange(num_frames, device=device)
    before = frame - width[:, None]  # a span that began here or earlier is over
    ended = begun.gather(1, before.clamp(min=0)) * (before >= 0)
    return begun > ended
