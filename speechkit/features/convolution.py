"""MFB and MFCC as one strided convolution and standard operators, for export.

DC removal, pre-emphasis, window and Fourier transform are linear, so together they are one matrix of
(frame_length, 2 bins), which a convolution of stride `hop_length` applies to every frame. An exporter needs no STFT.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.features.framing import count_frames, window_function, with_edges
from speechkit.features.mfb import MFB
from speechkit.features.mfcc import MFCC
from speechkit.masking import zero_padding


def spectral_matrix(mfb: MFB) -> Tensor:
    """Raw frame -> real and imaginary parts of the bins 0 .. fft_length / 2: float64 (frame_length, 2 bins)."""
    length = mfb.frame_length
    steps = torch.eye(length, dtype=torch.float64)
    if mfb.remove_dc:
        steps = steps - 1.0 / length
    if mfb.preemphasis:
        steps = steps - mfb.preemphasis * torch.cat([steps[:, :1], steps[:, :-1]], dim=1)
    steps = steps * mfb.sample_scale * window_function(mfb.window, length, mfb.blackman_coefficient)
    spectrum = torch.fft.rfft(steps, n=mfb.fft_length)
    return torch.cat([spectrum.real, spectrum.imag], dim=1)


class ConvolutionalMFB(nn.Module):
    """The numbers of an `MFB` or `MFCC` from convolution, product, matrix product and logarithm alone.

    Args:
        mfb: whose definition is taken; without dither, energy column and `dynamic_range`.

    Raises:
        ValueError: `mfb` has one of these.
    """

    def __init__(self, mfb: MFB) -> None:
        super().__init__()
        refuse_special(mfb, "a convolution")
        self.mfb = mfb
        self.frame_length, self.hop_length, self.edges = mfb.frame_length, mfb.hop_length, mfb.edges
        self.sample_rate_hz, self.hop_seconds, self.num_features = mfb.sample_rate_hz, mfb.hop_seconds, mfb.num_features
        self.register_buffer("kernel", spectral_matrix(mfb).T[:, None, :].float().contiguous(), persistent=False)

    def output_lengths(self, num_samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames."""
        return self.mfb.output_lengths(num_samples)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> features (B, T, F), frames (B,)."""
        frames = self.output_lengths(lengths)
        edged = with_edges(waveform.float(), lengths, self.frame_length, self.hop_length, self.edges)
        count = int(count_frames(torch.tensor(waveform.shape[1]), self.frame_length, self.hop_length, self.edges))
        return zero_padding(self.of_edged(edged, count), frames), frames

    def of_edged(self, waveform: Tensor, num_frames: int | None = None) -> Tensor:
        """A waveform (B, N) whose edges are laid on -> features (B, T, F) of its whole frames, or the first of them."""
        parts = F.conv1d(waveform[:, None, :], self.kernel, stride=self.hop_length)
        real, imaginary = parts.chunk(2, dim=1)
        power = (real * real + imaginary * imaginary).transpose(1, 2)
        if not self.mfb.use_power:
            power = power.sqrt()
        features = self.mfb.logarithm(torch.matmul(power, self.mfb.filters))
        if isinstance(self.mfb, MFCC):
            features = self.mfb.cepstra(features)
        return features if num_frames is None else features[:, :num_frames]


def refuse_special(mfb: MFB, what: str) -> None:
    """Raises ValueError where an option needs more than frames, filters and logarithm."""
    for name, value, plain in (
        ("dither", mfb.dither, 0.0),
        ("use_energy", mfb.use_energy, False),
        ("dynamic_range", mfb.dynamic_range, None),
    ):
        if value != plain:
            raise ValueError(f"`{name}` must be {plain} for a front end as {what}, got {value}.")
