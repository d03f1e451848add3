"""Strided convolutions that turn frames (or samples) into latents at a lower rate."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.encoders.convolution import MaskedConv1d, strided_lengths
from speechkit.encoders.normalization import MaskedBatchNorm1d

NORMS = ("channel", "batch")


class ConvSubsampling(nn.Module):
    """A stack of strided convolutions, each with a norm and GELU.

    Over MFB frames two of them make 40 ms latents; over a waveform, kernels (10, 8, 4, 4, 4) with strides
    (5, 4, 2, 2, 2) are CPC's encoder (van den Oord et al. 2018, arXiv 1807.03748). Channel norm is over the channels of
    one frame, so it knows nothing of the batch; contrastive training is more stable with it than with batch norm
    (Riviere et al. 2020, arXiv 2002.02848). Batch norm folds into the convolutions of a finished network.

    Args:
        input_dim: F.
        channels: D of the latents.
        kernel_sizes: taps of each convolution.
        strides: step of each convolution.
        norm: "channel" or "batch".
        dropout: after each activation.
    """

    def __init__(
        self,
        *,
        input_dim: int,
        channels: int,
        kernel_sizes: Sequence[int],
        strides: Sequence[int],
        norm: str = "channel",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(kernel_sizes) != len(strides) or not kernel_sizes:
            raise ValueError(f"`kernel_sizes` and `strides` must be as many, got {kernel_sizes} and {strides}.")
        if norm not in NORMS:
            raise ValueError(f"`norm` must be one of {', '.join(NORMS)}, got {norm!r}.")
        self.strides, self.norm = tuple(strides), norm
        dims = [input_dim] + [channels] * len(kernel_sizes)
        self.convs = nn.ModuleList(
            MaskedConv1d(dims[i], dims[i + 1], size, stride=stride)
            for i, (size, stride) in enumerate(zip(kernel_sizes, strides, strict=True))
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(channels) if norm == "channel" else MaskedBatchNorm1d(channels) for _ in kernel_sizes
        )
        self.dropout = nn.Dropout(dropout)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) frames in -> (B,) latents."""
        for stride in self.strides:
            lengths = strided_lengths(lengths, stride)
        return lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> (B, T', channels), (B,)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x, lengths = conv(x.transpose(1, 2), lengths)
            x = norm(x, lengths).transpose(1, 2) if self.norm == "batch" else norm(x.transpose(1, 2))
            x = self.dropout(F.gelu(x))
        return x, lengths
