"""Strided convolutions, then GRU layers. Causal in its recurrence, it is also CPC's encoder: latents and context."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from speechkit.encoders.subsampling import ConvSubsampling
from speechkit.masking import zero_padding


class ConvGRUEncoder(nn.Module):
    """Convolutional latents z and a recurrent context c; `forward` gives c.

    Contrastive predictive coding predicts `latents` from `context` and asks for a unidirectional one
    (van den Oord et al. 2018, arXiv 1807.03748, section 2.2).

    Args:
        input_dim: F.
        channels: D of the latents.
        kernel_sizes: taps of each convolution.
        strides: step of each convolution.
        hidden_size: units of each GRU layer and direction.
        num_layers: GRU layers.
        bidirectional: also read backwards (no pretraining by CPC, no streaming).
        dropout: after each convolution, between the GRU layers, and on the output.
    """

    def __init__(
        self,
        *,
        input_dim: int = 80,
        channels: int = 256,
        kernel_sizes: Sequence[int] = (5, 5),
        strides: Sequence[int] = (2, 2),
        hidden_size: int = 256,
        num_layers: int = 2,
        bidirectional: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_dim, self.channels = input_dim, channels
        self.kernel_sizes, self.strides = tuple(kernel_sizes), tuple(strides)
        self.hidden_size, self.num_layers, self.bidirectional = hidden_size, num_layers, bidirectional
        self.dropout = dropout
        self.subsampling = ConvSubsampling(
            input_dim=input_dim, channels=channels, kernel_sizes=kernel_sizes, strides=strides, dropout=dropout
        )
        self.recurrence = nn.GRU(
            channels,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.output_dropout = nn.Dropout(dropout)

    @property
    def output_dim(self) -> int:
        return self.hidden_size * (2 if self.bidirectional else 1)

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
        """z (B, T', channels), (B,) -> c (B, T', output_dim), (B,); zero beyond each length."""
        if self.bidirectional:  # the backward pass must start at each utterance's own end
            packed = pack_padded_sequence(latents, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
            output, _ = self.recurrence(packed)
            context, _ = pad_packed_sequence(output, batch_first=True, total_length=latents.shape[1])
        else:
            context, _ = self.recurrence(latents)
        return zero_padding(self.output_dropout(context), lengths), lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> c (B, T', output_dim), (B,)."""
        return self.context(*self.latents(x, lengths))
