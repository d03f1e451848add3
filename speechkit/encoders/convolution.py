"""Convolution over time that sees the mask, channels first: (x (B, C, T), lengths) -> (y (B, C', T'), lengths)."""

import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.masking import zero_padding


def strided_lengths(lengths: Tensor, stride: int) -> Tensor:
    """ceil(length / stride): (B,) -> (B,)."""
    return (lengths + stride - 1).div(stride, rounding_mode="floor")


class MaskedConv1d(nn.Module):
    """A convolution that keeps T (divided by the stride, rounded up) and reads zeros beyond each utterance's end.

    Without the mask, an utterance in a longer batch would read whatever earlier layers left in its padding.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: taps; centred, with the extra one on the right where it is even.
        stride: step in frames.
        causal: the last tap is at the frame itself instead, so nothing is read of the future.
        groups: as in `torch.nn.Conv1d`.
        bias: add a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        causal: bool = False,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or stride < 1:
            raise ValueError(f"`kernel_size` and `stride` must be positive, got {kernel_size} and {stride}.")
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=bias)
        self.stride = stride
        self._padding = (kernel_size - 1, 0) if causal else ((kernel_size - 1) // 2, kernel_size // 2)

    @property
    def linear_map(self) -> nn.Conv1d:
        """What graph passes may fold a batch norm into: nothing but padding and mask stand around it."""
        return self.conv

    @property
    def padding(self) -> tuple[int, int]:
        """Frames of zeros before the first and after the last."""
        return self._padding

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T), (B,) -> (B, C', ceil(T / stride)), (B,)."""
        if self._padding != (0, 0):
            x = zero_padding(x.transpose(1, 2), lengths).transpose(1, 2)
        left, right = self._padding
        missing = 1 if x.shape[2] == 0 else 0  # a batch without frames: the kernel still needs something to stand on
        y = self.conv(F.pad(x, (left, right + missing)))
        return y[:, :, :0] if missing else y, strided_lengths(lengths, self.stride)
