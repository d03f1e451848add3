"""Separable-convolution encoder with batch normalisation: what a small device runs in int8.

The idea is QuartzNet's (Kriman et al. 2020, arXiv 1910.10261): depthwise convolutions over time, pointwise ones over
channels, batch norms that fold away, residual blocks; no recurrence and no attention.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.encoders.convolution import MaskedConv1d, strided_lengths
from speechkit.encoders.normalization import MaskedBatchNorm1d

_FIRST_GAIN = 0.1  # of a block's convolutions against the path around them


class SeparableConv(nn.Module):
    """Depthwise convolution, pointwise convolution, batch norm: (B, C, T) -> (B, C', T')."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = MaskedConv1d(
            in_channels, in_channels, kernel_size, stride=stride, groups=in_channels, bias=False
        )
        self.pointwise = MaskedConv1d(in_channels, out_channels, 1, bias=False)
        self.norm = MaskedBatchNorm1d(out_channels)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T), (B,) -> (B, C', T'), (B,)."""
        x, lengths = self.depthwise(x, lengths)
        x, _ = self.pointwise(x, lengths)
        return self.norm(x, lengths), lengths


class SeparableBlock(nn.Module):
    """`repeats` separable convolutions with ReLU, and a pointwise residual path around them.

    At first the path around is the identity and what it is added to is small (Goyal et al. 2017, arXiv 1706.02677,
    section 5.1, take 0), so that many blocks learn to align as soon as few do.
    """

    def __init__(self, channels: int, kernel_size: int, *, repeats: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(SeparableConv(channels, channels, kernel_size) for _ in range(repeats))
        self.shortcut = MaskedConv1d(channels, channels, 1, bias=False)
        self.shortcut_norm = MaskedBatchNorm1d(channels)
        nn.init.dirac_(self.shortcut.conv.weight)
        nn.init.constant_(self.convs[-1].norm.weight, _FIRST_GAIN)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T), (B,) -> the same shapes."""
        y = x
        for place, conv in enumerate(self.convs):
            if place:
                y = self.dropout(F.relu(y))
            y, _ = conv(y, lengths)
        residual, _ = self.shortcut(x, lengths)
        return self.dropout(F.relu(y + self.shortcut_norm(residual, lengths))), lengths


class SeparableConvEncoder(nn.Module):
    """Strided separable convolution, residual blocks, a last wide one.

    Args:
        input_dim: F.
        channels: width of the blocks.
        kernel_sizes: taps of each block's convolutions; as many blocks as entries.
        repeats: convolutions in a block.
        stride: frames in for one frame out.
        output_dim: D.
        dropout: after each activation.
    """

    def __init__(
        self,
        *,
        input_dim: int = 80,
        channels: int = 192,
        kernel_sizes: Sequence[int] = (11, 15, 19, 23, 27),
        repeats: int = 2,
        stride: int = 2,
        output_dim: int = 384,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_dim, self.channels, self.kernel_sizes = input_dim, channels, tuple(kernel_sizes)
        self.repeats, self.stride, self.output_dim, self.dropout = repeats, stride, output_dim, dropout
        self.stem = SeparableConv(input_dim, channels, 11, stride=stride)
        self.layers = nn.ModuleList(
            SeparableBlock(channels, size, repeats=repeats, dropout=dropout) for size in kernel_sizes
        )
        self.top = SeparableConv(channels, output_dim, 1)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) frames in -> (B,) frames out."""
        return strided_lengths(lengths, self.stride)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> (B, ceil(T / stride), output_dim), (B,)."""
        x, lengths = self.stem(x.transpose(1, 2), lengths)
        x = F.relu(x)
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        x, lengths = self.top(x, lengths)
        return F.relu(x).transpose(1, 2), lengths
