"""What tells that a gradient has no derivative, instead of taking it for a constant."""

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
