"""Batch normalisation whose statistics count real frames only, optionally over all ranks."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speechkit.masking import length_mask


class MaskedBatchNorm1d(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) of (B, C, T) over the frames inside each utterance.

    With padding counted, an utterance's statistics would depend on the longest one of its batch. Parameter and buffer
    names are those of `torch.nn.BatchNorm1d`, so it folds into the convolution before it in the same way.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of a new batch in the running statistics.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.synchronize = False  # set by the DataParallel callback: statistics over the joined batch of all ranks
        self.update_running = True  # cleared while activation checkpointing computes a forward pass again

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T), (B,) -> (B, C, T); float32 inside, also under autocast."""
        if not self.training:
            scale = self.weight * (self.running_var + self.eps).rsqrt()
            return x * scale[:, None] + (self.bias - self.running_mean * scale)[:, None]
        mask = length_mask(lengths, x.shape[2])[:, None, :]
        with torch.autocast(x.device.type, enabled=False):
            y, mean, var, count = masked_norm(x.float(), mask, self.weight, self.bias, self.eps, self.joined)
        if self.update_running:
            self._update_running_statistics(mean, var, count)
        return y

    def joined(self, *sums: Tensor) -> tuple[Tensor, ...]:
        """Sums over ranks, where the norm is to be that of the joined batch; one message."""
        if not (self.synchronize and torch.distributed.is_available() and torch.distributed.is_initialized()):
            return sums
        message = torch.cat(sums)
        torch.distributed.all_reduce(message)
        return tuple(message.split([len(part) for part in sums]))

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        momentum = self.momentum * (count > 0).to(count)  # a rank without work in a step has no frames at all
        unbiased = var * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased, momentum)


def masked_norm(
    x: Tensor,
    mask: Tensor,
    gain: Tensor,
    shift: Tensor,
    eps: Tensor | float,
    joined: Callable[..., tuple[Tensor, ...]] = lambda *sums: sums,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """gain (x - mean) / sqrt(var + eps) + shift, with the statistics of real frames; `shift` elsewhere.

    Its gradient is written out (Ioffe and Szegedy 2015, section 3): with it a step makes a third of the passes over
    memory that autograd makes.

    Args:
        x: (B, C, T) float32.
        mask: (B, 1, T) bool, True for real frames.
        gain: (C,).
        shift: (C,).
        eps: a number, or (C,) without gradient.
        joined: sums over ranks of several vectors.

    Returns:
        y (B, C, T), and without gradients mean (C,), var (C,), and the number of frames (1,).
    """
    y, mean, var, count = _MaskedNorm.apply(x, mask, gain, shift, eps, joined)
    return y, mean, var, count


class _MaskedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, gain: Tensor, shift: Tensor, eps: Tensor | float, joined: Any
    ) -> tuple[Tensor, ...]:
        real = mask.to(x.dtype)
        count, total = joined(real.sum().reshape(1), (x * real).sum(dim=(0, 2)))
        divisor = count.clamp(min=1)
        mean = total / divisor
        centered = (x - mean[:, None]).mul_(real)
        (squares,) = joined((centered * centered).sum(dim=(0, 2)))
        var = squares / divisor
        inverse = (var + eps).rsqrt()
        ctx.save_for_backward(centered, real, gain, inverse, divisor)
        ctx.joined = joined
        ctx.mark_non_differentiable(mean, var, count)
        return (centered * (gain * inverse)[:, None]).add_(shift[:, None]), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        centered, real, gain, inverse, divisor = ctx.saved_tensors
        outer, inner = grads[0], grads[0] * real
        product = (inner * centered).sum(dim=(0, 2))
        total, products = ctx.joined(inner.sum(dim=(0, 2)), product)
        slope = gain * inverse
        of_x = inner.sub_((total / divisor)[:, None] * real).sub_(
            centered * (products / divisor * inverse.square())[:, None]
        )
        return of_x.mul_(slope[:, None]), None, product * inverse, outer.sum(dim=(0, 2)), None, None
