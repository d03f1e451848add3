"""CTC on a CPU: the kernels of `numba_kernels` over a batch, and their gradient."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from speechkit.losses.ctc import numba_kernels as kernels
from speechkit.losses.ctc.batch import Batch
from speechkit.losses.ctc.numba_batch import longest_first, memory, on_threads, prepared
from speechkit.losses.ctc.once import only_once


def _empty(*shape: int, like: Tensor) -> Tensor:
    """`torch.empty` in memory of NumPy's, which asks for huge pages: a third of the time where the tensor is large."""
    return torch.from_numpy(np.empty(shape, np.float64 if like.dtype == torch.float64 else np.float32))


class _Results(NamedTuple):
    """What the way forward leaves: see `numba_kernels.forward`."""

    losses: NDArray[np.float64]  # (B,)
    feasible: NDArray[np.bool_]  # (B,)
    statistics: NDArray[Any]  # (B, T, 2)
    occupancies: NDArray[Any]  # (B, T, U + 1) or, not wanted, (B, T, 0)


def _forward(batch: Batch, label_smoothing: float, occupancies: Tensor) -> _Results:
    """The batch is `prepared`; occupancies (B, T, U + 1) are written in place, none if the last dimension is 0."""
    logits, targets, input_lengths, target_lengths, blank = batch
    stored, (size, num_frames, num_symbols) = memory(logits), logits.shape
    integers = targets.numpy(), input_lengths.numpy(), target_lengths.numpy()
    statistics = np.empty((size, num_frames, 2), stored.numbers.dtype)
    results = _Results(np.empty(size), np.empty(size, np.bool_), statistics, occupancies.numpy())
    work = *longest_first(integers[1]), *stored, num_symbols, *integers, blank, label_smoothing, *results
    most = int(integers[1].max()), int(integers[2].max()), statistics.dtype
    on_threads(lambda: kernels.forward(*work, *kernels.workspace(*most)), size, logits.numel())
    return results


class _CTC(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, batch: Batch, zero_infinity: bool, label_smoothing: float, needs_gradient: bool
    ) -> Tensor:
        kept = batch.targets.shape[1] + 1 if needs_gradient else 0
        occupancies = _empty(*logits.shape[:2], kept, like=logits)
        results = _forward(batch, label_smoothing, occupancies)
        losses, feasible, statistics, _ = map(torch.from_numpy, results)
        ctx.save_for_backward(logits, *batch[1:4], feasible, statistics, occupancies)
        ctx.options = batch.blank, zero_infinity, label_smoothing
        if zero_infinity:
            losses = losses.where(feasible, 0.0)
        return losses.to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, input_lengths, target_lengths, feasible, statistics, occupancies = ctx.saved_tensors
        blank, zero_infinity, label_smoothing = ctx.options
        size, num_frames, num_symbols = logits.shape
        if logits.transpose(0, 1).is_contiguous():
            gradient = _empty(num_frames, size, num_symbols, like=logits).transpose(0, 1)
        else:
            gradient = _empty(size, num_frames, num_symbols, like=logits)
        integers = targets.numpy(), input_lengths.numpy(), target_lengths.numpy()
        reals = weights.detach().where(feasible, 0.0 if zero_infinity else torch.nan), feasible, statistics, occupancies
        arrays = [x.contiguous().numpy() for x in reals]
        arguments = *memory(logits), num_symbols, *integers, blank, label_smoothing, *arrays, *memory(gradient)
        work = *longest_first(integers[1]), *arguments
        on_threads(lambda: kernels.gradient(*work), size, logits.numel())
        return only_once(gradient, logits, weights), *(None,) * 4


def ctc_losses(batch: Batch, *, zero_infinity: bool, label_smoothing: float) -> Tensor:
    """Losses (B,), differentiable with respect to the logits; arguments as in `speechkit.losses.ctc_loss`."""
    batch = prepared(batch)
    needs_gradient = batch.logits.requires_grad and torch.is_grad_enabled()
    losses: Tensor = _CTC.apply(batch.logits, batch, zero_infinity, label_smoothing, needs_gradient)
    return losses


def ctc_occupancies(batch: Batch) -> Tensor:
    """Occupancies (B, T, V); see `speechkit.losses.ctc_occupancies`."""
    batch = prepared(batch._replace(logits=batch.logits.detach()))
    logits, labels = batch.logits, batch.labels()
    by_label = logits.new_zeros(*logits.shape[:2], labels.shape[1] + 1)
    _forward(batch, 0.0, by_label)
    symbols = F.pad(labels, (1, 0), value=batch.blank)[:, None].expand(by_label.shape)
    return logits.new_zeros(logits.shape).scatter_add_(2, symbols, by_label)
