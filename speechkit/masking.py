"""Which frames of a padded batch are real. Every sequence module uses these, so padding never changes a result."""

import contextlib
import contextvars
from collections.abc import Iterator

import torch
from torch import Tensor

_nothing_padded = contextvars.ContextVar("_nothing_padded", default=False)


@contextlib.contextmanager
def without_padding() -> Iterator[None]:
    """Promises that every sequence is as long as its tensor: what is traced within has no masks in its graph."""
    token = _nothing_padded.set(True)
    try:
        yield
    finally:
        _nothing_padded.reset(token)


def nothing_padded(lengths: Tensor, num_frames: int) -> bool:
    """Whether every sequence of a batch is as long as its tensor."""
    return _nothing_padded.get() or bool((lengths == num_frames).all())


def length_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """True where a frame belongs to its sequence: lengths (B,) -> (B, num_frames)."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Sets frames beyond each length to zero: (B, T, F) -> (B, T, F)."""
    if _nothing_padded.get():
        return x
    return x.masked_fill(~length_mask(lengths, x.shape[1])[:, :, None], 0.0)


def mean_over_frames(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean over each sequence's own frames, 0 where it has none: (B, T), (B,) -> (B,)."""
    return x.masked_fill(~length_mask(lengths, x.shape[1]), 0.0).sum(dim=1) / lengths.clamp(min=1)
