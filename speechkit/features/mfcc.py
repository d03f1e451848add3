"""MFCC: liftered cosine transform of log mel energies, by default by Kaldi's definition (`compute-mfcc-feats`)."""

import math
from typing import Any

import torch
from torch import Tensor

from speechkit.features.mfb import MFB
from speechkit.masking import zero_padding


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


class MFCC(MFB):
    """Mel-frequency cepstral coefficients (Davis and Mermelstein 1980; Kaldi's options).

    Args:
        num_coefficients: number of cepstra, at most `num_mels`.
        num_mels: number of mel bins behind them.
        lifter: cepstral liftering constant, 0 for none.
        use_energy: the frame's log energy stands in place of C0.
        htk_compat: C0, times sqrt(2), or the energy comes last.
        mfb_options: every other argument of `MFB`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        *,
        num_coefficients: int = 13,
        num_mels: int = 23,
        lifter: float = 22.0,
        use_energy: bool = False,
        htk_compat: bool = False,
        **mfb_options: Any,
    ) -> None:
        super().__init__(num_mels=num_mels, use_energy=use_energy, htk_compat=htk_compat, **mfb_options)
        if not 1 <= num_coefficients <= num_mels:
            raise ValueError(f"`num_coefficients` must lie in [1, num_mels = {num_mels}], got {num_coefficients}.")
        if use_energy and self.dynamic_range is not None:
            raise ValueError(f"`dynamic_range` must be none where `use_energy` is true, got {self.dynamic_range}.")
        self.num_coefficients, self.lifter = num_coefficients, lifter
        transform = dct_matrix(num_mels, num_coefficients) * lifter_weights(num_coefficients, lifter)
        if htk_compat and not use_energy:
            transform[:, 0] *= math.sqrt(2.0)
        self.transform: Tensor
        self.register_buffer("transform", transform.float(), persistent=False)

    @property
    def num_features(self) -> int:
        return self.num_coefficients

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> cepstra (B, T, num_coefficients), frames (B,).

        Raises:
            ValueError: as `MFB.forward`.
        """
        features, frames = self.by_blocks(waveform, lengths)
        if self.dynamic_range is None:
            return features, frames
        return zero_padding(self.cepstra(self.limit_range(features, frames)), frames), frames

    def finish_block(self, log_mel: Tensor, frames: Tensor) -> Tensor:
        """Log mel energies (B, t, num_mels), raw frames (B, t, frame_length) -> cepstra (B, t, num_coefficients).

        With a `dynamic_range` they stay log mel energies: it needs the whole utterance.
        """
        if self.dynamic_range is not None:
            return log_mel
        if not self.use_energy:
            return self.cepstra(log_mel)
        cepstra = torch.cat([self.frame_energy(frames), torch.matmul(log_mel, self.transform)[..., 1:]], dim=-1)
        return self._arranged(cepstra)

    def cepstra(self, log_mel: Tensor) -> Tensor:
        """Log mel energies (..., num_mels) -> cepstra (..., num_coefficients)."""
        return self._arranged(torch.matmul(log_mel, self.transform))

    def _arranged(self, cepstra: Tensor) -> Tensor:
        return torch.cat([cepstra[..., 1:], cepstra[..., :1]], dim=-1) if self.htk_compat else cepstra
