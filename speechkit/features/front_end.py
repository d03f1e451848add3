"""A front end: features, then normalisation, then deltas. This is the seam `front_end` of every task.

In the network's own input domain it is `QuantizedFrontEnd`, which is made of the same parts.
"""

from typing import Any

from torch import Tensor, nn

from speechkit.features.streaming import FeatureStream


class FrontEnd(nn.Module):
    """Features, CMVN, deltas: waveform (B, N) -> (B, T, F).

    Args:
        features: `MFB`, `MFCC`, one of their presets, or `Waveform`.
        cmvn: `UtteranceCMVN`, `SlidingCMVN`, `GlobalCMVN` or none.
        deltas: `Deltas` or none.
    """

    def __init__(self, *, features: nn.Module, cmvn: nn.Module | None = None, deltas: nn.Module | None = None) -> None:
        super().__init__()
        expected = getattr(cmvn, "num_features", features.num_features)
        if expected != features.num_features:
            raise ValueError(f"`cmvn.num_features` must equal the features' {features.num_features}, got {expected}.")
        self.features: Any = features
        self.cmvn = cmvn
        self.deltas: Any = deltas

    @property
    def num_features(self) -> int:
        return self.features.num_features * (1 if self.deltas is None else self.deltas.order + 1)

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
        for step in (self.cmvn, self.deltas):
            if step is not None:
                features, lengths = step(features, lengths)
        return features, lengths

    def stream(self) -> FeatureStream:
        """Takes a waveform in pieces of any length and gives the frames of `forward`.

        Raises:
            ValueError: a part needs the whole utterance.
        """
        if self.deltas is not None:
            raise ValueError("`deltas` look ahead and do not stream; set them to none.")
        return FeatureStream(self.features, self.cmvn)
