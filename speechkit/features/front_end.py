"""A front end: features, then normalisation. This is the seam `front_end` of every task.

The quantized domain (`QuantizedFrontEnd`) will wrap the same two parts.
"""

from typing import Any

from torch import Tensor, nn


class FrontEnd(nn.Module):
    """Features followed by CMVN: waveform (B, N) -> (B, T, F).

    Args:
        features: `MFB`, `MFCC` or `Waveform`.
        cmvn: `UtteranceCMVN`, `GlobalCMVN` or none.
    """

    def __init__(self, *, features: nn.Module, cmvn: nn.Module | None = None) -> None:
        super().__init__()
        expected = getattr(cmvn, "num_features", features.num_features)
        if expected != features.num_features:
            raise ValueError(f"`cmvn.num_features` must equal the features' {features.num_features}, got {expected}.")
        self.features: Any = features
        self.cmvn = cmvn

    @property
    def num_features(self) -> int:
        return self.features.num_features

    @property
    def sample_rate_hz(self) -> int:
        return self.features.sample_rate_hz

    @property
    def hop_seconds(self) -> float:
        return self.features.hop_seconds

    def output_lengths(self, num_samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames."""
        return self.features.output_lengths(num_samples)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> features (B, T, F), frames (B,)."""
        features, lengths = self.features(waveform, lengths)
        return (features, lengths) if self.cmvn is None else self.cmvn(features, lengths)
