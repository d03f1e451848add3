"""Transformer layers that see the mask: (x (B, T, D), lengths) -> (y (B, T, D), lengths)."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from speechkit.masking import length_mask, zero_padding

EXIT_KEYS = ("none", "zero", "learned")


class ConvPositions(nn.Module):
    """Relative positions: a wide grouped convolution with weight norm and GELU, added to its input.

    Baevski et al. 2020 (arXiv 2006.11477, section 2) take it instead of position embeddings.

    Args:
        dim: D.
        kernel_size: taps; where it is even, the extra one is on the left.
        groups: of the convolution.
    """

    def __init__(self, *, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self._padding = (kernel_size // 2, (kernel_size - 1) // 2)
        conv = nn.Conv1d(dim, dim, kernel_size, groups=groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4.0 / (kernel_size * dim)))
        nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, dim=2)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D), (B,) -> the same shapes."""
        x = zero_padding(x, lengths)
        left, right = self._padding
        missing = 1 if x.shape[1] == 0 else 0  # a batch without frames: the kernel still needs something to stand on
        positions = self.conv(F.pad(x.transpose(1, 2), (left, right + missing)))
        return x + F.gelu(positions[:, :, :0] if missing else positions).transpose(1, 2), lengths


class SelfAttention(nn.Module):
    """Multi-head self-attention by torch's `scaled_dot_product_attention` (FlashAttention where it applies).

    Args:
        dim: D, a multiple of `num_heads`.
        num_heads: how many.
        dropout: of the attention weights; above 0 a CPU computes them all, which takes memory.
        exit_key: a further key for a head that wants to attend to nothing: "zero" (torch's `add_zero_attn`),
            "learned" (its `add_bias_kv`), or "none".
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float, exit_key: str) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"`num_heads` must divide the model dimension {dim}, got {num_heads}.")
        if exit_key not in EXIT_KEYS:
            raise ValueError(f"`exit_key` must be one of {', '.join(EXIT_KEYS)}, got {exit_key!r}.")
        self.num_heads, self.dropout, self.exit_key = num_heads, dropout, exit_key
        self.input_projection = nn.Linear(dim, 3 * dim)
        self.output_projection = nn.Linear(dim, dim)
        if exit_key == "learned":
            self.exit = nn.Parameter(0.02 * torch.randn(2, num_heads, 1, dim // num_heads))

    def forward(self, x: Tensor, lengths: Tensor, *, full: bool = False) -> tuple[Tensor, Tensor]:
        """(B, T, D), (B,) -> the same shapes; `full` promises that no utterance is padded, so no mask is needed."""
        projected = self.input_projection(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        # a filler without frames attends to one, as a softmax over nothing is not a number
        mask = None if full else length_mask(lengths.clamp(min=1), x.shape[1])[:, None, None, :]
        if self.exit_key != "none":
            key, value = self._with_exit(key, 0), self._with_exit(value, 1)
            mask = None if mask is None else F.pad(mask, (0, 1), value=True)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.output_projection(y.transpose(1, 2).flatten(2)), lengths

    def _with_exit(self, x: Tensor, which: int) -> Tensor:
        if self.exit_key == "zero":
            return F.pad(x, (0, 0, 0, 1))
        return torch.cat([x, self.exit[which].to(x.dtype).expand(len(x), -1, -1, -1)], dim=2)


class TransformerLayer(nn.Module):
    """Self-attention and a GELU feed-forward network, each with a residual path and layer norm.

    Args:
        dim: D.
        num_heads: of the attention.
        feed_forward_dim: width between the two feed-forward maps.
        pre_norm: norm before each part (Xiong et al. 2020, arXiv 2002.04745), else after the residual sum
            (Vaswani et al. 2017, arXiv 1706.03762).
        dropout: after each part.
        attention_dropout: of the attention weights.
        exit_key: see `SelfAttention`.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        feed_forward_dim: int,
        pre_norm: bool,
        dropout: float,
        attention_dropout: float,
        exit_key: str,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = SelfAttention(dim=dim, num_heads=num_heads, dropout=attention_dropout, exit_key=exit_key)
        self.attention_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, feed_forward_dim)
        self.narrow = nn.Linear(feed_forward_dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.attention.input_projection, self.attention.output_projection, self.widen, self.narrow):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, lengths: Tensor, *, full: bool = False, dropped: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(B, T, D), (B,) -> the same shapes.

        `full` promises that no utterance is padded. A layer that is `dropped` gives x, in a graph in which its
        parameters have gradient zero: DDP waits for all of them, and ranks gather a sharded layer together.
        """
        if dropped:
            nothing = sum(parameter.flatten()[0] * 0.0 for parameter in self.parameters())
            return x + torch.as_tensor(nothing, dtype=x.dtype), lengths
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), lengths, full=full)[0])
            return x + self.dropout(self._feed_forward(self.feed_forward_norm(x))), lengths
        x = self.attention_norm(x + self.dropout(self.attention(x, lengths, full=full)[0]))
        return self.feed_forward_norm(x + self.dropout(self._feed_forward(x))), lengths

    def _feed_forward(self, x: Tensor) -> Tensor:
        return recompute_activation(self._activate_and_narrow, self.widen(x))

    def _activate_and_narrow(self, x: Tensor) -> Tensor:
        return self.narrow(F.gelu(x))


def recompute_activation(function: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """function(x, *rest), whose tensors the backward pass computes again from x.

    For a cheap element-wise step and one matrix product after it: torch's checkpoint stops as soon as it has the
    product's input, so only the cheap step is computed twice, and only x is kept in memory.
    """
    if not torch.is_grad_enabled():
        return function(x, *rest)
    return checkpoint(function, x, *rest, use_reentrant=False, preserve_rng_state=False)
