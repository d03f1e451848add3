"""wav2vec 2.0's encoder (Baevski et al. 2020, arXiv 2006.11477): convolutions over samples, then a transformer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.encoders.subsampling import ConvSubsampling
from speechkit.encoders.transformer import ConvPositions, TransformerLayer, recompute_activation
from speechkit.masking import nothing_padded, zero_padding

CONV_NORMS = ("group", "layer")


class WaveformConvs(nn.Module):
    """Strided convolutions that see nothing beyond an utterance's ends, each with GELU.

    They take most of a step's memory. So each utterance is computed on its own, padding never, and only the outputs of
    convolutions are kept: norms and activations are computed again in the backward pass, one utterance at a time.

    Args:
        input_dim: F; 1 for a waveform.
        channels: C.
        kernel_sizes: taps of each convolution.
        strides: step of each convolution.
        norm: "group" (over time, after the first convolution only) or "layer" (over channels, after each).
        bias: of the convolutions.
    """

    def __init__(
        self,
        *,
        input_dim: int,
        channels: int,
        kernel_sizes: Sequence[int],
        strides: Sequence[int],
        norm: str,
        bias: bool,
    ) -> None:
        super().__init__()
        self.kernel_sizes, self.strides = tuple(kernel_sizes), tuple(strides)
        self.convs = nn.ModuleList(
            nn.Conv1d(channels if place else input_dim, channels, size, stride=stride, bias=bias)
            for place, (size, stride) in enumerate(zip(kernel_sizes, strides, strict=True))
        )
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)
        self.norms = nn.ModuleList(
            [nn.GroupNorm(channels, channels)] if norm == "group" else [nn.LayerNorm(channels) for _ in self.convs]
        )

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) frames in -> (B,) latents, 0 where the receptive field does not fit."""
        for kernel_size, stride in zip(self.kernel_sizes, self.strides, strict=True):
            lengths = ((lengths - kernel_size).div(stride, rounding_mode="floor") + 1).clamp(min=0)
        return lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> (B, T', channels), (B,); T' is that of the longest utterance."""
        if nothing_padded(lengths, x.shape[1]):
            rows = list(x)
        else:
            rows = [row[:length] for row, length in zip(x, lengths.tolist(), strict=True)]
        latents = [self._latents(row) for row in rows]
        return pad_sequence(latents, batch_first=True), self.output_lengths(lengths)

    def _latents(self, x: Tensor) -> Tensor:
        """Of one utterance: (T, input_dim) -> (T', channels)."""
        missing = max(0, self.receptive_field - len(x))  # too short: computed all the same, so that gradients exist
        x = self.convs[0](F.pad(x.T, (0, missing))[None])
        for place in range(1, len(self.convs)):
            x = recompute_activation(self._activate_and_convolve, x, place)
        return self._activate(x, len(self.convs) - 1)[0].T[: 0 if missing else None]

    def _activate_and_convolve(self, x: Tensor, place: int) -> Tensor:
        return self.convs[place](self._activate(x, place - 1))

    def _activate(self, x: Tensor, place: int) -> Tensor:
        """GELU of the norm of convolution `place`'s output: (1, C, T) -> (1, C, T)."""
        norm = self.norms[place] if place < len(self.norms) else None
        if isinstance(norm, nn.LayerNorm):
            x = norm(x.transpose(1, 2)).transpose(1, 2)
        elif norm is not None:
            x = norm(x)
        return F.gelu(x)

    @property
    def receptive_field(self) -> int:
        """Frames in that one latent sees."""
        field = 1
        for kernel_size, stride in zip(reversed(self.kernel_sizes), reversed(self.strides), strict=True):
            field = (field - 1) * stride + kernel_size
        return field


class Wav2Vec2Encoder(nn.Module):
    """Convolutional latents z and a transformer's context c over all of them; `forward` gives c.

    The defaults are the base model's; large has conv_norm "layer", conv_bias, output_dim 1024, 24 layers, 16 heads,
    feed_forward_dim 4096, pre_norm and no dropout. Over features instead of samples (MFB, MFCC, the values of the
    quantized domain) two convolutions do, with `padded`.

    Args:
        input_dim: F; 1 for a waveform.
        channels: C of the latents.
        kernel_sizes: taps of each convolution.
        strides: step of each convolution.
        conv_norm: "group" (over time, after the first convolution only) or "layer" (over channels, after each).
        conv_bias: of the convolutions.
        padded: convolutions read zeros beyond the ends and give ceil(T / stride) latents; they are `ConvSubsampling`,
            with layer norm and bias. Else they see nothing there and give floor((T - kernel) / stride) + 1.
        output_dim: D of the context.
        num_layers: of the transformer.
        num_heads: of each layer.
        feed_forward_dim: width of each layer's feed-forward network.
        pre_norm: norm before each part of a layer, and after the last layer; else after each part.
        position_kernel_size: taps of the convolution that stands for positions.
        position_groups: of that convolution.
        exit_key: a key for heads that attend to nothing: "none", "zero" or "learned".
        dropout: on the projected latents and after each part of a layer.
        attention_dropout: of attention weights.
        layer_drop: probability that a layer is left out of a training step (Fan et al. 2020, arXiv 1909.11556).

    Raises:
        ValueError: unequal numbers of kernels and strides, an unknown norm, a norm or bias that `padded` does not
            have, or dimensions that groups or heads do not divide.
    """

    bidirectional = True  # the context sees the future

    def __init__(
        self,
        *,
        input_dim: int = 1,
        channels: int = 512,
        kernel_sizes: Sequence[int] = (10, 3, 3, 3, 3, 2, 2),
        strides: Sequence[int] = (5, 2, 2, 2, 2, 2, 2),
        conv_norm: str = "group",
        conv_bias: bool = False,
        padded: bool = False,
        output_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        feed_forward_dim: int = 3072,
        pre_norm: bool = False,
        position_kernel_size: int = 128,
        position_groups: int = 16,
        exit_key: str = "none",
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        layer_drop: float = 0.05,
    ) -> None:
        super().__init__()
        if len(kernel_sizes) != len(strides) or not kernel_sizes:
            raise ValueError(f"`kernel_sizes` and `strides` must be as many, got {kernel_sizes} and {strides}.")
        if conv_norm not in CONV_NORMS:
            raise ValueError(f"`conv_norm` must be one of {', '.join(CONV_NORMS)}, got {conv_norm!r}.")
        if padded and (conv_norm != "layer" or not conv_bias):
            raise ValueError(f"`padded` needs `conv_norm` layer and `conv_bias`, got {conv_norm} and {conv_bias}.")
        if output_dim % position_groups:
            raise ValueError(f"`position_groups` must divide `output_dim` {output_dim}, got {position_groups}.")
        if not 0.0 <= layer_drop < 1.0:
            raise ValueError(f"`layer_drop` must lie in [0, 1), got {layer_drop}.")
        self.input_dim, self.channels = input_dim, channels
        self.kernel_sizes, self.strides = tuple(kernel_sizes), tuple(strides)
        self.conv_norm, self.conv_bias, self.padded = conv_norm, conv_bias, padded
        self.output_dim, self.num_layers, self.num_heads = output_dim, num_layers, num_heads
        self.feed_forward_dim, self.pre_norm, self.exit_key = feed_forward_dim, pre_norm, exit_key
        self.position_kernel_size, self.position_groups = position_kernel_size, position_groups
        self.dropout, self.attention_dropout, self.layer_drop = dropout, attention_dropout, layer_drop
        self.subsampling: ConvSubsampling | WaveformConvs = (
            ConvSubsampling(input_dim=input_dim, channels=channels, kernel_sizes=kernel_sizes, strides=strides)
            if padded
            else WaveformConvs(
                input_dim=input_dim,
                channels=channels,
                kernel_sizes=kernel_sizes,
                strides=strides,
                norm=conv_norm,
                bias=conv_bias,
            )
        )
        self.latent_norm = nn.LayerNorm(channels)
        self.projection = nn.Linear(channels, output_dim)
        self.mask_embedding = nn.Parameter(torch.rand(output_dim))
        self.positions = ConvPositions(dim=output_dim, kernel_size=position_kernel_size, groups=position_groups)
        if not pre_norm:
            self.context_norm = nn.LayerNorm(output_dim)
        self.context_dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                dim=output_dim,
                num_heads=num_heads,
                feed_forward_dim=feed_forward_dim,
                pre_norm=pre_norm,
                dropout=dropout,
                attention_dropout=attention_dropout,
                exit_key=exit_key,
            )
            for _ in range(num_layers)
        )
        if pre_norm:  # then it stands behind them
            self.context_norm = nn.LayerNorm(output_dim)

    @property
    def latent_dim(self) -> int:
        return self.channels

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) frames in -> (B,) frames out."""
        return self.subsampling.output_lengths(lengths)

    def latents(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> z (B, T', channels), (B,), before `latent_norm`."""
        return self.subsampling(x, lengths)

    def context(self, latents: Tensor, lengths: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the transformer makes of the latents.

        Args:
            latents: (B, T', channels).
            lengths: (B,).
            mask: (B, T') True where the context must not see the latent but a learned vector instead.

        Returns:
            c (B, T', output_dim), zero beyond each length, and the lengths.
        """
        if mask is None:  # the learned vector still takes part, with gradient zero, as DDP wants of every parameter
            mask = torch.zeros(latents.shape[:2], dtype=torch.bool, device=latents.device)
        full = nothing_padded(lengths, latents.shape[1])
        x = self.context_dropout(self.projection(self.latent_norm(latents)))
        x = torch.where(mask[:, :, None], self.mask_embedding.to(x.dtype), x)
        x, _ = self.positions(x, lengths)
        if not self.pre_norm:
            x = self.context_norm(x)
        x = self.context_dropout(x)
        for layer in self.layers:
            dropped = self.training and self.layer_drop > 0 and float(torch.rand(())) < self.layer_drop
            x, _ = layer(x, lengths, full=full, dropped=dropped)
        if self.pre_norm:
            x = self.context_norm(x)
        return zero_padding(x, lengths), lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> c (B, T', output_dim), (B,)."""
        return self.context(*self.latents(x, lengths))
