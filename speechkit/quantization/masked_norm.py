"""Batch norm over real frames with its gradient written out: a third of the passes over memory that autograd makes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def masked_norm(
    x: Tensor,
    mask: Tensor,
    gain: Tensor,
    shift: Tensor,
    eps: Tensor | float,
    joined: Callable[..., tuple[Tensor, ...]] = lambda *sums: sums,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """gain (x - mean) / sqrt(var + eps) + shift, with the statistics of real frames; `shift` elsewhere.

    The gradient is that of Ioffe and Szegedy 2015 (arXiv 1502.03167, section 3), over real frames.

    Args:
        x: (B, C, T) float32.
        mask: (B, 1, T) bool, True for real frames.
        gain: (C,).
        shift: (C,).
        eps: a number, or (C,) without gradient.
        joined: sums of several vectors over ranks.

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
        real = mask.to(x.dtype)  # (B, 1, T)
        count, total = joined(real.sum().reshape(1), _sums(x, real))
        divisor = count.clamp(min=1)
        mean = total / divisor
        centered = (x - mean[:, None]).mul_(real)
        (squares,) = joined(centered.square().sum(dim=(0, 2)))
        var = squares / divisor
        inverse = (var + eps).rsqrt()
        ctx.save_for_backward(centered, real, gain, inverse, divisor)
        ctx.joined = joined
        ctx.mark_non_differentiable(mean, var, count)
        return torch.addcmul(shift[:, None], centered, (gain * inverse)[:, None]), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        centered, real, gain, inverse, divisor = ctx.saved_tensors
        product = (grads[0] * centered).sum(dim=(0, 2))
        total, products = ctx.joined(_sums(grads[0], real), product)
        slope = gain * inverse
        of_x = (grads[0] * slope[:, None]).sub_((slope * total / divisor)[:, None])
        of_x.addcmul_(centered, (-slope * products / divisor * inverse.square())[:, None]).mul_(real)
        return of_x, None, product * inverse, grads[0].sum(dim=(0, 2)), None, None


def _sums(x: Tensor, real: Tensor) -> Tensor:
    """(B, C, T) and (B, 1, T) -> (C,), over real frames."""
    return torch.bmm(x, real.mT).sum(dim=(0, 2))
