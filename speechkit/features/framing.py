"""Frames, windows and mel filters by Kaldi's definitions (kaldi/src/feat/feature-window.cc, mel-computations.cc)."""

import math

import torch
from torch import Tensor

WINDOWS = ("povey", "hanning", "hamming", "blackman", "rectangular", "sine")


def frame_samples(seconds: float, sample_rate_hz: int) -> int:
    """Length of a span in whole samples, rounded down as Kaldi does (with slack for binary fractions)."""
    return int(seconds * sample_rate_hz + 1e-6)


def count_frames(num_samples: Tensor, frame_length: int, hop_length: int) -> Tensor:
    """Number of frames that lie wholly inside (`snip_edges`): (B,) samples -> (B,) frames."""
    return ((num_samples - frame_length).div(hop_length, rounding_mode="floor") + 1).clamp(min=0)


def window_function(name: str, length: int) -> Tensor:
    """Analysis window (length,) in float64. "povey" is Hann to the power 0.85."""
    phase = 2.0 * math.pi * torch.arange(length, dtype=torch.float64) / (length - 1)
    if name == "hanning":
        return 0.5 - 0.5 * torch.cos(phase)
    if name == "povey":
        return (0.5 - 0.5 * torch.cos(phase)).pow(0.85)
    if name == "hamming":
        return 0.54 - 0.46 * torch.cos(phase)
    if name == "blackman":
        return 0.42 - 0.5 * torch.cos(phase) + 0.08 * torch.cos(2.0 * phase)
    if name == "sine":
        return torch.sin(0.5 * phase)
    if name == "rectangular":
        return torch.ones(length, dtype=torch.float64)
    raise ValueError(f"`window` must be one of {', '.join(WINDOWS)}, got {name!r}.")


def hz_to_mel(hz: Tensor) -> Tensor:
    """HTK's mel scale."""
    return 1127.0 * torch.log1p(hz / 700.0)


def mel_filters(num_mels: int, fft_length: int, sample_rate_hz: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangular filters, equal on the mel scale: (fft_length // 2 + 1, num_mels) in float64.

    The triangles are straight on the mel axis, and the Nyquist bin has no weight (Kaldi's choice).
    """
    edges = hz_to_mel(torch.tensor([low_hz, high_hz], dtype=torch.float64))
    points = torch.linspace(float(edges[0]), float(edges[1]), num_mels + 2, dtype=torch.float64)
    left, center, right = points[:-2], points[1:-1], points[2:]
    bins = torch.arange(fft_length // 2 + 1, dtype=torch.float64) * (sample_rate_hz / fft_length)
    mel = hz_to_mel(bins)[:, None]
    rising, falling = (mel - left) / (center - left), (right - mel) / (right - center)
    weights = torch.minimum(rising, falling).clamp(min=0.0)
    weights[-1] = 0.0
    return weights
