"""Strided convolutions, then recurrent layers. Where these only look back, CPC has its latents and context here."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.encoders.subsampling import ConvSubsampling
from speechkit.masking import length_mask, zero_padding


def reverse_sequences(x: Tensor, lengths: Tensor) -> Tensor:
    """Turns each utterance's own frames around and leaves its padding where it is: (B, T, F) -> (B, T, F)."""
    time = torch.arange(x.shape[1], device=x.device)
    turned = torch.where(length_mask(lengths, x.shape[1]), lengths[:, None] - 1 - time, time)
    return x.gather(1, turned[:, :, None].expand_as(x))


class BidirectionalLayers(nn.Module):
    """Recurrent layers in both directions over a padded batch.

    The backward direction is a forward one over turned utterances, so it starts at each utterance's own end. That is
    the result of packed sequences at half their cost.

    Args:
        cell: `nn.GRU` or `nn.LSTM`.
        input_size: F.
        hidden_size: units of each layer and direction.
        num_layers: how many.
        dropout: between layers.
    """

    def __init__(
        self, cell: type[nn.GRU | nn.LSTM], input_size: int, hidden_size: int, num_layers: int, *, dropout: float
    ) -> None:
        super().__init__()
        sizes = [input_size] + [2 * hidden_size] * (num_layers - 1)
        self.ahead = nn.ModuleList(cell(size, hidden_size, batch_first=True) for size in sizes)
        self.back = nn.ModuleList(cell(size, hidden_size, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, T, 2 hidden_size); what stands beyond each length means nothing."""
        for place, (ahead, back) in enumerate(zip(self.ahead, self.back, strict=True)):
            x = self.dropout(x) if place else x
            from_the_end, _ = back(reverse_sequences(x, lengths))
            x = torch.cat([ahead(x)[0], reverse_sequences(from_the_end, lengths)], dim=-1)
        return x


@torch.fx.wrap
def _never_empty(x: Tensor) -> Tensor:
    """(B, T, D) -> the same, or a frame of zeros where there is none: torch's cells refuse that."""
    return F.pad(x, (0, 0, 0, 1)) if x.shape[1] == 0 else x


class ConvGRUEncoder(nn.Module):
    """Convolutional latents z and a recurrent context c; `forward` gives c.

    Contrastive predictive coding predicts `latents` from `context` and asks for a unidirectional one
    (van den Oord et al. 2018, arXiv 1807.03748, section 2.2).

    Args:
        input_dim: F.
        channels: D of the latents.
        kernel_sizes: taps of each convolution.
        strides: step of each convolution.
        hidden_size: units of each recurrent layer and direction.
        num_layers: recurrent layers.
        bidirectional: also read backwards (no pretraining by CPC, no streaming).
        norm: after each convolution, "channel" or "batch"; see `ConvSubsampling`.
        dropout: after each convolution, between the recurrent layers, and on the output.
    """

    cell: type[nn.GRU | nn.LSTM] = nn.GRU

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
        norm: str = "channel",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_dim, self.channels = input_dim, channels
        self.kernel_sizes, self.strides = tuple(kernel_sizes), tuple(strides)
        self.hidden_size, self.num_layers, self.bidirectional = hidden_size, num_layers, bidirectional
        self.norm, self.dropout = norm, dropout
        self.subsampling = ConvSubsampling(
            input_dim=input_dim,
            channels=channels,
            kernel_sizes=kernel_sizes,
            strides=strides,
            norm=norm,
            dropout=dropout,
        )
        between = dropout if num_layers > 1 else 0.0
        self.recurrence: nn.Module = (
            BidirectionalLayers(self.cell, channels, hidden_size, num_layers, dropout=between)
            if bidirectional
            else self.cell(channels, hidden_size, num_layers, batch_first=True, dropout=between)
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
        x = _never_empty(latents)
        context = self.recurrence(x, lengths) if self.bidirectional else self.recurrence(x)[0]
        context = context[:, : latents.shape[1]]
        return zero_padding(self.output_dropout(context), lengths), lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> c (B, T', output_dim), (B,)."""
        return self.context(*self.latents(x, lengths))


class ConvLSTMEncoder(ConvGRUEncoder):
    """`ConvGRUEncoder` with LSTM layers, whose step torch computes at once on a CPU: faster there, above all in bf16.

    They begin with forget gates that are open (Jozefowicz et al. 2015, section 2.2).
    """

    cell = nn.LSTM

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for name, bias in self.recurrence.named_parameters():
            if "bias_ih" in name:
                nn.init.ones_(bias.data[self.hidden_size : 2 * self.hidden_size])
