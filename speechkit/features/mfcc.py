"""MFCC: liftered cosine transform of log mel energies by Kaldi's definition (`compute-mfcc-feats`)."""

import math

import torch
from torch import Tensor, nn

from speechkit.features.mfb import _INT16_SCALE, ENERGY_FLOOR, MFB


def dct_matrix(num_mels: int, num_coefficients: int) -> Tensor:
    """Orthonormal DCT-II, float64 (num_mels, num_coefficients): log energies times this are cepstra."""
    mel = torch.arange(num_mels, dtype=torch.float64)[:, None] + 0.5
    order = torch.arange(num_coefficients, dtype=torch.float64)
    matrix = math.sqrt(2.0 / num_mels) * torch.cos(math.pi / num_mels * mel * order)
    matrix[:, 0] = math.sqrt(1.0 / num_mels)
    return matrix


def lifter_weights(num_coefficients: int, lifter: float) -> Tensor:
    """1 + lifter / 2 sin(pi i / lifter), float64 (num_coefficients,); ones where `lifter` is 0."""
    order = torch.arange(num_coefficients, dtype=torch.float64)
    return 1.0 + 0.5 * lifter * torch.sin(math.pi * order / lifter) if lifter else torch.ones_like(order)


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients (Davis and Mermelstein 1980; Kaldi's options).

    Args:
        sample_rate_hz: rate of the waveform.
        num_coefficients: number of cepstra, at most `num_mels`.
        num_mels: number of mel bins behind them.
        lifter: cepstral liftering constant, 0 for none.
        use_energy: replace C0 by the log energy of the frame before pre-emphasis and window.
        frame_seconds: length of a frame.
        hop_seconds: distance between frames.
        low_hz: lower edge of the first filter.
        high_hz: upper edge of the last filter; 0 or less counts from the Nyquist frequency.
        preemphasis: coefficient of the first-order high-pass.
        remove_dc: subtract the mean of each frame.
        window: as for `MFB`.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int = 16000,
        num_coefficients: int = 13,
        num_mels: int = 23,
        lifter: float = 22.0,
        use_energy: bool = False,
        frame_seconds: float = 0.025,
        hop_seconds: float = 0.010,
        low_hz: float = 20.0,
        high_hz: float = 0.0,
        preemphasis: float = 0.97,
        remove_dc: bool = True,
        window: str = "povey",
    ) -> None:
        super().__init__()
        if not 1 <= num_coefficients <= num_mels:
            raise ValueError(f"`num_coefficients` must lie in [1, num_mels = {num_mels}], got {num_coefficients}.")
        self.sample_rate_hz, self.num_coefficients, self.num_mels = sample_rate_hz, num_coefficients, num_mels
        self.lifter, self.use_energy = lifter, use_energy
        self.frame_seconds, self.hop_seconds = frame_seconds, hop_seconds
        self.low_hz, self.high_hz, self.preemphasis = low_hz, high_hz, preemphasis
        self.remove_dc, self.window = remove_dc, window
        self._mfb = MFB(
            sample_rate_hz=sample_rate_hz,
            num_mels=num_mels,
            frame_seconds=frame_seconds,
            hop_seconds=hop_seconds,
            low_hz=low_hz,
            high_hz=high_hz,
            preemphasis=preemphasis,
            remove_dc=remove_dc,
            window=window,
        )
        transform = dct_matrix(num_mels, num_coefficients) * lifter_weights(num_coefficients, lifter)
        self.register_buffer("_transform", transform.float(), persistent=False)

    @property
    def num_features(self) -> int:
        return self.num_coefficients

    def output_lengths(self, num_samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames."""
        return self._mfb.output_lengths(num_samples)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> cepstra (B, T, num_coefficients), frames (B,)."""
        return self._mfb.by_blocks(self._cepstra, waveform, lengths)

    def _cepstra(self, frames: Tensor) -> Tensor:
        cepstra = torch.matmul(self._mfb.log_mel(self._mfb.spectral_frames(frames)), self._transform)
        if not self.use_energy:
            return cepstra
        if self.remove_dc:
            frames = frames - frames.mean(dim=-1, keepdim=True)
        energy = (frames * _INT16_SCALE).square().sum(dim=-1, keepdim=True).clamp(min=ENERGY_FLOOR).log()
        return torch.cat([energy, cepstra[..., 1:]], dim=-1)
