"""Frames: where they lie in a waveform, what stands beyond its ends, and the analysis windows.

`edges` says what a frame at an end of the waveform sees:

| edges | frames | beyond the ends | used by |
|---|---|---|---|
| "snip" | those wholly inside | nothing | Kaldi (`snip_edges`) |
| "mirror" | one each hop, its middle at hop / 2 | the waveform turned around, end sample included | Kaldi without it |
| "reflect" | centred on every hop-th sample | turned around, end sample left out | torch.stft, Whisper |
| "zero" | centred on every hop-th sample | zeros | librosa |
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.masking import length_mask

WINDOWS = ("povey", "hanning", "hann", "hamming", "blackman", "sine", "rectangular")
EDGES = ("snip", "mirror", "reflect", "zero")


def frame_samples(seconds: float, sample_rate_hz: int) -> int:
    """Length of a span in whole samples, rounded down as Kaldi does (with slack for binary fractions)."""
    return int(seconds * sample_rate_hz + 1e-6)


def count_frames(num_samples: Tensor, frame_length: int, hop_length: int, edges: str = "snip") -> Tensor:
    """Number of frames: (B,) samples -> (B,) frames."""
    if edges == "snip":
        return ((num_samples - frame_length).div(hop_length, rounding_mode="floor") + 1).clamp(min=0)
    if edges == "mirror":
        return (num_samples + hop_length // 2).div(hop_length, rounding_mode="floor")
    return torch.where(num_samples > 0, num_samples.div(hop_length, rounding_mode="floor") + 1, 0)


def left_edge(frame_length: int, hop_length: int, edges: str) -> int:
    """Samples before the waveform that the first frame sees; negative where it begins later."""
    if edges == "snip":
        return 0
    return frame_length // 2 - (hop_length // 2 if edges == "mirror" else 0)


def first_frame_seconds(features: Any) -> float:
    """When the middle of the first frame is, for features that have frames; 0 for others."""
    if not hasattr(features, "frame_length"):
        return 0.0
    edge = left_edge(features.frame_length, features.hop_length, getattr(features, "edges", "snip"))
    return (features.frame_length / 2 - edge) / features.sample_rate_hz


def edge_indices(places: Tensor, lengths: Tensor, edges: str) -> Tensor:
    """Which sample stands at a place outside the waveform, for "mirror" and "reflect".

    Args:
        places: (B, P), any integers.
        lengths: (B,) samples, at least 1.

    Returns:
        (B, P) in [0, length).
    """
    period = 2 * lengths if edges == "mirror" else (2 * lengths - 2).clamp(min=1)
    turned = places.remainder(period[:, None])
    last = period - 1 if edges == "mirror" else period
    return torch.where(turned < lengths[:, None], turned, last[:, None] - turned)


def with_edges(waveform: Tensor, lengths: Tensor, frame_length: int, hop_length: int, edges: str) -> Tensor:
    """Lays the edges on, so that frame t is samples [t hop, t hop + frame_length) of the result.

    Args:
        waveform: (B, N); what stands beyond each length is not looked at.
        lengths: (B,) samples.
        frame_length: samples.
        hop_length: samples.
        edges: see the table of this module.

    Returns:
        (B, N'), at least `frame_length` long.
    """
    batch, size = waveform.shape
    if edges == "snip":
        return F.pad(waveform, (0, frame_length - size)) if size < frame_length else waveform
    left = left_edge(frame_length, hop_length, edges)
    right = frame_length
    waveform = F.pad(waveform.masked_fill(~length_mask(lengths, size), 0.0), (max(left, 0), right))
    if edges != "zero" and size > 0:
        lengths = lengths.clamp(min=1)
        offset = max(left, 0)
        before = torch.arange(-offset, 0, device=waveform.device).expand(batch, -1)
        after = lengths[:, None] + torch.arange(right, device=waveform.device)
        places = torch.cat([before, after], dim=1)
        values = waveform.gather(1, edge_indices(places, lengths, edges) + offset)
        waveform = waveform.scatter(1, places + offset, values)
    return waveform[:, max(-left, 0) :]


def window_function(name: str, length: int, blackman_coefficient: float = 0.42) -> Tensor:
    """Analysis window (length,) in float64.

    "povey" is Hann to the power 0.85; "hanning" is symmetric (Kaldi's), "hann" periodic (librosa's and torch's).
    """
    index = torch.arange(length, dtype=torch.float64)
    phase = 2.0 * math.pi * index / (length - 1)
    if name == "hanning":
        return 0.5 - 0.5 * torch.cos(phase)
    if name == "hann":
        return 0.5 - 0.5 * torch.cos(2.0 * math.pi * index / length)
    if name == "povey":
        return (0.5 - 0.5 * torch.cos(phase)).pow(0.85)
    if name == "hamming":
        return 0.54 - 0.46 * torch.cos(phase)
    if name == "blackman":
        return blackman_coefficient - 0.5 * torch.cos(phase) + (0.5 - blackman_coefficient) * torch.cos(2.0 * phase)
    if name == "sine":
        return torch.sin(0.5 * phase)
    if name == "rectangular":
        return torch.ones(length, dtype=torch.float64)
    raise ValueError(f"`window` must be one of {', '.join(WINDOWS)}, got {name!r}.")
