"""Gradients that are computed by hand, and cannot be differentiated again."""

from typing import Any

import torch
from torch import Tensor


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        raise RuntimeError("The CTC loss can be differentiated only once: its gradient has no derivative.")


def only_once(gradient: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
    """The gradient, which depends on the logits and on the incoming gradient; to differentiate it is a RuntimeError.

    `torch.autograd.function.once_differentiable` sees the dependence on the incoming gradient only.
    """
    if not torch.is_grad_enabled():  # the graph of the gradient is not asked for
        return gradient
    guarded: Tensor = _Once.apply(gradient, logits, weights)
    return guarded


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(logits, gradient)
        return values

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        logits, gradient = ctx.saved_tensors
        return only_once(weights.detach()[:, None, None] * gradient, logits, weights), None, None


def with_gradient(logits: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
    """Values (B,) whose gradient with respect to the logits (B, T, V) is known, both given in the logits' type."""
    result: Tensor = _Known.apply(logits, values.to(logits), gradient.to(logits))
    return result
