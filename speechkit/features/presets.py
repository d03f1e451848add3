"""Front ends by the definitions of other toolkits. `MFB` and `MFCC` themselves are Kaldi's."""

from typing import Any

import torch
from torch import Tensor

from speechkit.features.mfb import MFB
from speechkit.features.mfcc import MFCC
from speechkit.masking import length_mask

_LIBROSA: dict[str, Any] = {
    "low_hz": 0.0,
    "preemphasis": 0.0,
    "remove_dc": False,
    "window": "hann",
    "round_to_power_of_two": False,
    "edges": "zero",
    "mel_scale": "slaney",
    "straight_in": "hz",
    "area_norm": True,
    "sample_scale": 1.0,
    "log": "db",
    "floor": 1e-10,
}


class LibrosaMFB(MFB):
    """`librosa.power_to_db(librosa.feature.melspectrogram(y, sr=...))`: decibels, the 80 below the maximum.

    Args:
        sample_rate_hz: rate of the waveform.
        num_mels: number of mel bins.
        frame_seconds: librosa's `n_fft` / rate.
        hop_seconds: librosa's `hop_length` / rate.
        dynamic_range: librosa's `top_db`; none for no limit, which streaming needs.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int = 22050,
        num_mels: int = 128,
        frame_seconds: float = 2048 / 22050,
        hop_seconds: float = 512 / 22050,
        dynamic_range: float | None = 80.0,
    ) -> None:
        super().__init__(
            sample_rate_hz=sample_rate_hz,
            num_mels=num_mels,
            frame_seconds=frame_seconds,
            hop_seconds=hop_seconds,
            dynamic_range=dynamic_range,
            **_LIBROSA,
        )


class LibrosaMFCC(MFCC):
    """`librosa.feature.mfcc(y=y, sr=...)`: orthonormal cosine transform of `LibrosaMFB`, no lifter.

    Args:
        sample_rate_hz: rate of the waveform.
        num_coefficients: librosa's `n_mfcc`.
        num_mels: number of mel bins.
        frame_seconds: librosa's `n_fft` / rate.
        hop_seconds: librosa's `hop_length` / rate.
        dynamic_range: librosa's `top_db`; none for no limit, which streaming needs.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int = 22050,
        num_coefficients: int = 20,
        num_mels: int = 128,
        frame_seconds: float = 2048 / 22050,
        hop_seconds: float = 512 / 22050,
        dynamic_range: float | None = 80.0,
    ) -> None:
        super().__init__(
            sample_rate_hz=sample_rate_hz,
            num_coefficients=num_coefficients,
            num_mels=num_mels,
            frame_seconds=frame_seconds,
            hop_seconds=hop_seconds,
            dynamic_range=dynamic_range,
            lifter=0.0,
            **_LIBROSA,
        )


class WhisperMFB(MFB):
    """Whisper's log mel spectrogram (Radford et al. 2022, arXiv 2212.04356): log10 above the maximum - 8, (x + 4) / 4.

    Whisper itself pads to 30 s first; here an utterance is as long as it is.

    Args:
        sample_rate_hz: 16000.
        num_mels: 80, or 128 for its third large model.

    Raises:
        ValueError: another rate.
    """

    def __init__(self, *, sample_rate_hz: int = 16000, num_mels: int = 80) -> None:
        if sample_rate_hz != 16000:
            raise ValueError(f"`sample_rate_hz` must be 16000 for Whisper's front end, got {sample_rate_hz}.")
        super().__init__(
            sample_rate_hz=sample_rate_hz,
            num_mels=num_mels,
            low_hz=0.0,
            preemphasis=0.0,
            remove_dc=False,
            window="hann",
            round_to_power_of_two=False,
            edges="reflect",
            mel_scale="slaney",
            straight_in="hz",
            area_norm=True,
            sample_scale=1.0,
            log="log10",
            floor=1e-10,
            dynamic_range=8.0,
        )

    def output_lengths(self, num_samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames; the last centred one is left out."""
        return num_samples.div(self.hop_length, rounding_mode="floor")

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> (B, T, num_mels), frames (B,); raises as `MFB`."""
        features, frames = super().forward(waveform, lengths)
        inside = length_mask(frames, features.shape[1])[:, :, None]
        return torch.where(inside, 0.25 * features + 1.0, 0.0), frames
