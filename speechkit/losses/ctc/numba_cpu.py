"""CTC on a CPU: the kernels of `numba_kernels` over a batch, and their gradient.

The utterances of a batch are shared out among as many threads as torch uses (`torch.set_num_threads`), longest first.
They are plain Python threads around kernels that release the GIL, and not Numba's parallel loops: those end the process
when two threads call at once (its own pool) or after a fork (OpenMP). Each process has its own threads, so a forked
worker starts new ones.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from speechkit.losses.ctc import numba_kernels as kernels
from speechkit.losses.ctc.batch import Batch
from speechkit.losses.ctc.once import only_once

WORTH_A_THREAD = 20_000  # logits; fewer are done before another thread has started


class _Memory(NamedTuple):
    """A tensor (B, T, V) of at least one number, symbols being neighbours, in one dimension, and its strides."""

    numbers: NDArray[Any]
    utterance_stride: int
    frame_stride: int


def _memory(x: Tensor) -> _Memory:
    utterance_stride, frame_stride, _ = x.stride()
    span = (x.shape[0] - 1) * utterance_stride + (x.shape[1] - 1) * frame_stride + x.shape[2]
    return _Memory(x.detach().as_strided((span,), (1,)).numpy(), utterance_stride, frame_stride)


def _empty(*shape: int, like: Tensor) -> Tensor:
    """`torch.empty` in memory of NumPy's, which asks for huge pages: a third of the time where the tensor is large."""
    return torch.from_numpy(np.empty(shape, np.float64 if like.dtype == torch.float64 else np.float32))


@functools.cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Threads of one process: a fork copies this cache but no thread."""
    return ThreadPoolExecutor(count, thread_name_prefix="ctc")


def _on_threads(work: Callable[[], None], shape: torch.Size) -> None:
    """Does the work, which takes utterances while some are left, on as many threads as pay."""
    num_threads = min(torch.get_num_threads(), shape[0], shape.numel() // WORTH_A_THREAD + 1)
    helpers = []
    if num_threads > 1:
        pool = _threads(os.getpid(), torch.get_num_threads() - 1)
        helpers = [pool.submit(work) for _ in range(num_threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


def _longest_first(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of the work, and how much of it is taken."""
    return np.argsort(-lengths), np.zeros(1, np.int64)


class _Results(NamedTuple):
    """What the way forward leaves: see `numba_kernels.forward`."""

    losses: NDArray[np.float64]  # (B,)
    feasible: NDArray[np.bool_]  # (B,)
    statistics: NDArray[Any]  # (B, T, 2)
    occupancies: NDArray[Any]  # (B, T, U + 1) or, not wanted, (B, T, 0)


def _forward(batch: Batch, label_smoothing: float, occupancies: Tensor) -> _Results:
    """The batch is `_prepared`; occupancies (B, T, U + 1) are written in place, none if the last dimension is 0."""
    logits, targets, input_lengths, target_lengths, blank = batch
    memory, (size, num_frames, num_symbols) = _memory(logits), logits.shape
    integers = targets.numpy(), input_lengths.numpy(), target_lengths.numpy()
    statistics = np.empty((size, num_frames, 2), memory.numbers.dtype)
    results = _Results(np.empty(size), np.empty(size, np.bool_), statistics, occupancies.numpy())
    work = *_longest_first(integers[1]), *memory, num_symbols, *integers, blank, label_smoothing, *results
    most = int(integers[1].max()), int(integers[2].max()), statistics.dtype
    _on_threads(lambda: kernels.forward(*work, *kernels.workspace(*most)), logits.shape)
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
        arguments = *_memory(logits), num_symbols, *integers, blank, label_smoothing, *arrays, *_memory(gradient)
        work = *_longest_first(integers[1]), *arguments
        _on_threads(lambda: kernels.gradient(*work), logits.shape)
        return only_once(gradient, logits, weights), *(None,) * 4


def _prepared(batch: Batch) -> Batch:
    """float32 or float64 logits whose symbols are neighbours, and contiguous int64 on the CPU."""
    logits, targets, input_lengths, target_lengths, blank = batch.in_single_precision()
    if logits.stride(2) != 1:
        logits = logits.contiguous()
    return Batch(logits, _integers(targets), _integers(input_lengths), _integers(target_lengths), blank)


def _integers(x: Tensor) -> Tensor:
    return x.to("cpu", torch.int64).contiguous()


def ctc_losses(batch: Batch, *, zero_infinity: bool, label_smoothing: float) -> Tensor:
    """Losses (B,), differentiable with respect to the logits; arguments as in `speechkit.losses.ctc_loss`."""
    batch = _prepared(batch)
    needs_gradient = batch.logits.requires_grad and torch.is_grad_enabled()
    losses: Tensor = _CTC.apply(batch.logits, batch, zero_infinity, label_smoothing, needs_gradient)
    return losses


def ctc_occupancies(batch: Batch) -> Tensor:
    """Occupancies (B, T, V); see `speechkit.losses.ctc_occupancies`."""
    batch = _prepared(batch._replace(logits=batch.logits.detach()))
    logits, labels = batch.logits, batch.labels()
    by_label = logits.new_zeros(*logits.shape[:2], labels.shape[1] + 1)
    _forward(batch, 0.0, by_label)
    symbols = F.pad(labels, (1, 0), value=batch.blank)[:, None].expand(by_label.shape)
    return logits.new_zeros(logits.shape).scatter_add_(2, symbols, by_label)
