"""A batch as the Numba kernels take it: its memory, and the threads among which its utterances are shared out.

The threads are as many as torch uses (`torch.set_num_threads`), and take the longest utterances first. They are plain
Python threads around kernels that release the GIL, and not Numba's parallel loops: those end the process when two
threads call at once (its own pool) or after a fork (OpenMP). Each process has its own threads, so a forked worker
starts new ones.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.losses.ctc.batch import Batch

WORTH_A_THREAD = 20_000  # numbers to be looked at; fewer are done before another thread has started


def prepared(batch: Batch) -> Batch:
    """float32 or float64 logits whose symbols are neighbours, and contiguous int64 on the CPU."""
    logits, targets, input_lengths, target_lengths, blank = batch.in_single_precision()
    if logits.stride(2) != 1:
        logits = logits.contiguous()
    return Batch(logits, _integers(targets), _integers(input_lengths), _integers(target_lengths), blank)


def _integers(x: Tensor) -> Tensor:
    return x.to("cpu", torch.int64).contiguous()


class Memory(NamedTuple):
    """A tensor (B, T, V) of at least one number, symbols being neighbours, in one dimension, and its strides."""

    numbers: NDArray[Any]
    utterance_stride: int
    frame_stride: int


def memory(x: Tensor) -> Memory:
    """The memory of a tensor on the CPU; nothing is copied."""
    utterance_stride, frame_stride, _ = x.stride()
    span = (x.shape[0] - 1) * utterance_stride + (x.shape[1] - 1) * frame_stride + x.shape[2]
    return Memory(x.detach().as_strided((span,), (1,)).numpy(), utterance_stride, frame_stride)


@functools.cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Threads of one process: a fork copies this cache but no thread."""
    return ThreadPoolExecutor(count, thread_name_prefix="ctc")


def on_threads(work: Callable[[], None], num_utterances: int, numbers: int) -> None:
    """Does the work, which takes utterances while some are left, on as many threads as pay for so many numbers."""
    num_threads = min(torch.get_num_threads(), num_utterances, numbers // WORTH_A_THREAD + 1)
    helpers = []
    if num_threads > 1:
        pool = _threads(os.getpid(), torch.get_num_threads() - 1)
        helpers = [pool.submit(work) for _ in range(num_threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


def longest_first(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of the work, and how much of it is taken."""
    return np.argsort(-lengths), np.zeros(1, np.int64)
