"""Deltas: slopes of features over time, as further features (Furui 1986; Kaldi's `add-deltas`)."""

import torch
from torch import Tensor, nn

from speechkit.masking import zero_padding


class Deltas(nn.Module):
    """Appends regression slopes, and slopes of slopes, to each frame; the first and last frame are repeated outwards.

    Args:
        order: 1 for slopes, 2 for slopes of slopes as well.
        window: frames on either side that a slope is fitted to.

    Raises:
        ValueError: an order or a window below 1.
    """

    def __init__(self, *, order: int = 2, window: int = 2) -> None:
        super().__init__()
        for name, value in (("order", order), ("window", window)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.order, self.window = order, window
        slope = torch.arange(-window, window + 1, dtype=torch.float64)
        slope /= slope.square().sum()
        taps = [torch.ones(1, dtype=torch.float64)]
        for _ in range(order):
            taps.append(_convolve(taps[-1], slope))
        for place, tap in enumerate(taps[1:], start=1):
            self.register_buffer(f"_taps{place}", tap.float(), persistent=False)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, T, (order + 1) F), (B,)."""
        num_frames = features.shape[1]
        columns = [features]
        for place in range(1, self.order + 1):
            taps: Tensor = getattr(self, f"_taps{place}")
            reach = place * self.window
            offsets = torch.arange(-reach, reach + 1, device=features.device)
            total = torch.zeros_like(features)
            for offset, tap in zip(offsets, taps, strict=True):
                frame = torch.arange(num_frames, device=features.device) + offset
                frame = torch.minimum(frame.clamp(min=0), (lengths - 1).clamp(min=0)[:, None])
                total = total + tap * features.gather(1, frame[:, :, None].expand_as(features))
            columns.append(total)
        return zero_padding(torch.cat(columns, dim=-1), lengths), lengths


def _convolve(first: Tensor, second: Tensor) -> Tensor:
    """Full convolution of two short sequences."""
    result = first.new_zeros(len(first) + len(second) - 1)
    for place, value in enumerate(first):
        result[place : place + len(second)] += value * second
    return result
