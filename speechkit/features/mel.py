"""Mel scales and triangular filters: HTK's and Slaney's, Kaldi's triangles and librosa's, vocal tract warping."""

import math

import torch
from torch import Tensor

MEL_SCALES = ("htk", "slaney")
_SLANEY_KNEE_HZ, _SLANEY_HZ_PER_MEL = 1000.0, 200.0 / 3.0
_SLANEY_STEP = math.log(6.4) / 27.0


def hz_to_mel(hz: Tensor, scale: str = "htk") -> Tensor:
    """HTK: 1127 ln(1 + f / 700). Slaney: linear below 1 kHz, logarithmic above (Auditory Toolbox, 1998)."""
    if scale == "htk":
        return 1127.0 * torch.log1p(hz / 700.0)
    knee = _SLANEY_KNEE_HZ / _SLANEY_HZ_PER_MEL
    above = knee + torch.log(hz.clamp(min=_SLANEY_KNEE_HZ) / _SLANEY_KNEE_HZ) / _SLANEY_STEP
    return torch.where(hz < _SLANEY_KNEE_HZ, hz / _SLANEY_HZ_PER_MEL, above)


def mel_to_hz(mel: Tensor, scale: str = "htk") -> Tensor:
    """The inverse of `hz_to_mel`."""
    if scale == "htk":
        return 700.0 * torch.expm1(mel / 1127.0)
    knee = _SLANEY_KNEE_HZ / _SLANEY_HZ_PER_MEL
    above = _SLANEY_KNEE_HZ * torch.exp((mel - knee).clamp(min=0.0) * _SLANEY_STEP)
    return torch.where(mel < knee, mel * _SLANEY_HZ_PER_MEL, above)


def vtln_warp_hz(
    hz: Tensor, warp: float, *, low_hz: float, high_hz: float, vtln_low_hz: float, vtln_high_hz: float
) -> Tensor:
    """Piecewise linear warp of a frequency axis; it leaves both edges of [low_hz, high_hz] where they are.

    Between the knees frequencies are divided by `warp` (Kaldi's `MelBanks::VtlnWarpFreq`).
    """
    lower = vtln_low_hz * max(1.0, warp)
    upper = vtln_high_hz * min(1.0, warp)
    scaled_lower, scaled_upper = lower / warp, upper / warp
    below = low_hz + (scaled_lower - low_hz) / (lower - low_hz) * (hz - low_hz)
    above = high_hz + (high_hz - scaled_upper) / (high_hz - upper) * (hz - high_hz)
    warped = torch.where(hz < lower, below, torch.where(hz < upper, hz / warp, above))
    return torch.where((hz < low_hz) | (hz > high_hz), hz, warped)


def mel_filters(
    num_mels: int,
    fft_length: int,
    sample_rate_hz: int,
    low_hz: float,
    high_hz: float,
    *,
    scale: str = "htk",
    straight_in: str = "mel",
    area_norm: bool = False,
    vtln_warp: float = 1.0,
    vtln_low_hz: float = 100.0,
    vtln_high_hz: float = 7500.0,
) -> Tensor:
    """Triangular filters whose corners are equally spaced on a mel scale: (fft_length // 2 + 1, num_mels) in float64.

    Args:
        num_mels: number of filters.
        fft_length: of the spectrum.
        sample_rate_hz: of the waveform.
        low_hz: lower corner of the first filter.
        high_hz: upper corner of the last.
        scale: "htk" or "slaney".
        straight_in: the axis on which the sides of the triangles are straight: "mel" (Kaldi, whose Nyquist bin has no
            weight) or "hz" (librosa, torchaudio).
        area_norm: divide each filter by half its width in Hz (Slaney's normalisation).
        vtln_warp: factor of the vocal tract length warp; 1 for none.
        vtln_low_hz: its lower knee.
        vtln_high_hz: its upper knee.

    Raises:
        ValueError: a filter so narrow that no bin of the spectrum lies in it.
    """
    edges = hz_to_mel(torch.tensor([low_hz, high_hz], dtype=torch.float64), scale)
    corners = torch.linspace(float(edges[0]), float(edges[1]), num_mels + 2, dtype=torch.float64)
    if vtln_warp != 1.0:
        warped = vtln_warp_hz(
            mel_to_hz(corners, scale),
            vtln_warp,
            low_hz=low_hz,
            high_hz=high_hz,
            vtln_low_hz=vtln_low_hz,
            vtln_high_hz=vtln_high_hz,
        )
        corners = hz_to_mel(warped, scale)
    bins = torch.arange(fft_length // 2 + 1, dtype=torch.float64) * (sample_rate_hz / fft_length)
    if straight_in == "mel":
        position = hz_to_mel(bins, scale)[:, None]
    else:
        corners, position = mel_to_hz(corners, scale), bins[:, None]
    left, center, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (position - left) / (center - left), (right - position) / (right - center)
    weights = torch.minimum(rising, falling).clamp(min=0.0)
    if straight_in == "mel":
        weights[-1] = 0.0
    if area_norm:
        hz = corners if straight_in == "hz" else mel_to_hz(corners, scale)
        weights = weights * (2.0 / (hz[2:] - hz[:-2]))
    empty = torch.nonzero(weights.amax(dim=0) <= 0.0).flatten().tolist()
    if empty:
        raise ValueError(
            f"`num_mels` must leave every filter a bin of the {fft_length}-point spectrum, "
            f"got {num_mels} with filter {empty[0]} empty."
        )
    return weights
