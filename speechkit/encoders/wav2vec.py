"""wav2vec's encoder: convolutions all the way, latents and a causal context, with no recurrence and no attention."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.encoders.convolution import MaskedConv1d
from speechkit.encoders.subsampling import ConvSubsampling
from speechkit.masking import zero_padding


class CausalConvLayer(nn.Module):
    """Causal convolution, channel norm, ReLU, and a path around them: (B, T, D) -> (B, T, D)."""

    def __init__(self, channels: int, kernel_size: int, *, dropout: float) -> None:
        super().__init__()
        self.conv = MaskedConv1d(channels, channels, kernel_size, causal=True)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D), (B,) -> the same shapes."""
        y, _ = self.conv(x.transpose(1, 2), lengths)
        return x + self.dropout(F.relu(self.norm(y.transpose(1, 2)))), lengths


class Wav2VecEncoder(nn.Module):
    """Convolutional latents z and a causal convolutional context c (Schneider et al. 2019, arXiv 1904.05862).

    A device computes the next c from the last taps of each layer: memory is a fixed number of frames. Kernels, strides
    and width default to the paper's over a waveform; over MFB frames, take kernels (5, 5) and strides (2, 2).

    The paper's group norm takes its statistics over the whole utterance, so its context has seen the future and the
    padding. Here the norm is over the channels of one frame (Riviere et al. 2020, arXiv 2002.02848).

    Args:
        input_dim: F.
        channels: D of latents and context.
        kernel_sizes: taps of each convolution of the latents.
        strides: step of each of them.
        context_kernel_sizes: taps of each causal convolution of the context; the paper's large model has 2 to 13.
        dropout: after each convolution.
    """

    def __init__(
        self,
        *,
        input_dim: int = 1,
        channels: int = 512,
        kernel_sizes: Sequence[int] = (10, 8, 4, 4, 4),
        strides: Sequence[int] = (5, 4, 2, 2, 2),
        context_kernel_sizes: Sequence[int] = (3, 3, 3, 3, 3, 3, 3, 3, 3),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not context_kernel_sizes:
            raise ValueError(f"`context_kernel_sizes` must hold at least one size, got {context_kernel_sizes}.")
        self.input_dim, self.channels = input_dim, channels
        self.kernel_sizes, self.strides = tuple(kernel_sizes), tuple(strides)
        self.context_kernel_sizes, self.dropout = tuple(context_kernel_sizes), dropout
        self.subsampling = ConvSubsampling(
            input_dim=input_dim, channels=channels, kernel_sizes=kernel_sizes, strides=strides, dropout=dropout
        )
        self.layers = nn.ModuleList(CausalConvLayer(channels, size, dropout=dropout) for size in context_kernel_sizes)

    @property
    def output_dim(self) -> int:
        return self.channels

    @property
    def latent_dim(self) -> int:
        return self.channels

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) frames in -> (B,) frames out."""
        return self.subsampling.output_lengths(lengths)

    def latents(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> z (B, T', channels), (B,)."""
        return self.subsampling(x, lengths)

    def context(self, latents: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, T', channels), (B,) -> c (B, T', channels), (B,); zero beyond each length."""
        for layer in self.layers:
            latents, lengths = layer(latents, lengths)
        return zero_padding(latents, lengths), lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> c (B, T', channels), (B,)."""
        return self.context(*self.latents(x, lengths))
