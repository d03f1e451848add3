"""The raw waveform as features (B, N, 1): the input of encoders that learn their own filters."""

from torch import Tensor, nn

from speechkit.masking import zero_padding


class Waveform(nn.Module):
    """Passes samples through as one feature a frame; follow it with `UtteranceCMVN` as wav2vec 2.0 does.

    Args:
        sample_rate_hz: rate of the waveform.
    """

    num_features = 1

    def __init__(self, *, sample_rate_hz: int = 16000) -> None:
        super().__init__()
        self.sample_rate_hz = sample_rate_hz

    @property
    def hop_seconds(self) -> float:
        return 1.0 / self.sample_rate_hz

    def output_lengths(self, num_samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames: the same."""
        return num_samples

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N), lengths (B,) -> (B, N, 1), lengths (B,)."""
        return zero_padding(waveform.float()[:, :, None], lengths), lengths
