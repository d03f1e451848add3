"""The best path of CTC on a CPU, in Numba: a label and the blank before it share an index k, as in `numba_kernels`.

A path is scored by the sum of its logits: all paths share the normalisers, so the recursion has neither exp nor log.
Sums are in float64, since an hour's may reach 1e6, where float32 resolves 0.06 and float64 1e-10. So no row of scores
has to be shifted to stay small, and paths of the same logits in another order tie, as they should.

On the way forward only one row of states is kept, written in place, and a copy of it every C frames. On the way back
each chunk of C frames is computed again from its copy, now with the moves, and only for the states that a path to the
known end of the chunk can have come from: it passes at most one label a frame. With T frames and U labels this takes
16 U T / C bytes of copies and C min(C, U) bytes of moves, least at C = 2 (T U)^(1/3), where they are 12 (T U)^(2/3).
(Grice, Hughey and Speck 1997, Reduced space sequence alignment, keep rows and compute the rest again likewise.)

The compiled code is kept as that of `numba_kernels`. Numba looks at this file alone to see whether it is still good:
whoever changes what is imported from there removes it from `__pycache__`.
"""

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.losses.ctc.batch import Batch
from speechkit.losses.ctc.numba_batch import longest_first, memory, on_threads, prepared
from speechkit.losses.ctc.numba_kernels import (
    LANES,
    band,
    copy,
    fill,
    inner,
    kernel,
    lanes,
    largest,
    sum_exp,
    take,
    whole,
)

Array = NDArray[Any]

CHUNK_BYTES = 1 << 20  # of moves: where there are fewer in all, there is one chunk
LABEL_STAYS, FROM_BLANK, FROM_LABEL = 0, 1, 2  # how a path came to label k: the lower two bits of a move
BLANK_FROM_LABEL = 4  # and to blank k: this bit is set if not from itself


@inner
def _step(
    best: Array, row: Array, of_blank: float, symbols: Array, skip: Array, first: int, end: int, moves: Any
) -> None:
    """One frame further: the new scores of blank and label k in the place of the old ones, first <= k < end.

    They are written from the last to the first, since each needs the old one of the label before.

    Args:
        best: (2, width) scores of blank k at place k, and of label k at place k + 1.
        row: (V,) logits of the frame.
        of_blank: that of the blank, in float64.
        symbols: (width,) id of label k at place k; the blank after the last.
        skip: (width,) at place k + 1, 0 where label k may follow label k - 1 without a blank, -inf elsewhere.
        first: the least k.
        end: one past the last k.
        moves: (end - first,), written, or None: how the best path came to blank and label k, at place k - first. It
            is wide enough for whole lanes.
    """
    new = numba.carray(lanes(best), (6, LANES))
    for start in range(whole(first, end) - LANES, first - 1, -LANES):
        for j in range(LANES):
            k, place = np.uintp(start + j), np.uintp(start + j + 1)
            blank, label, previous = best[0, k], best[1, place], best[1, k]
            new[0, j] = max(blank, previous) + of_blank
            if moves is not None:
                new[2, j] = BLANK_FROM_LABEL if previous > blank else 0
            previous += skip[place]
            either = max(label, blank)
            if moves is not None:
                move = FROM_BLANK if blank > label else LABEL_STAYS
                new[3, j] = FROM_LABEL if previous > either else move
            new[1, j] = max(either, previous) + row[np.uintp(symbols[k])]
        for j in range(LANES):
            best[0, np.uintp(start + j)] = new[0, j]
        for j in range(LANES):
            best[1, np.uintp(start + j + 1)] = new[1, j]
        if moves is not None:
            for j in range(LANES):
                moves[np.uintp(start - first + j)] = np.uint8(new[2, j] + new[3, j])


@inner
def _log_sum_exp(row: Array) -> Any:
    shift = largest(row)
    return shift + np.log(np.float64(sum_exp(row, shift)))


@inner
def _lay_out(labels: Array, blank: int, symbols: Array, skip: Array) -> None:
    """Writes `symbols` and `skip`, see `_step`."""
    fill(symbols, blank)
    fill(skip, -np.inf)
    for k in range(len(labels)):
        symbols[k] = labels[k]
        if k > 0 and labels[k] != labels[k - 1]:
            skip[k + 1] = 0


@inner
def _back(moves: Array, stop: int, passed: int, in_label: bool, positions: Array) -> tuple[int, bool]:
    """Follows the moves of a chunk that ends before frame `stop`, from its last frame to its first.

    The state in a frame is label `passed - 1` if the path is `in_label`, and blank `passed` otherwise.

    Args:
        moves: (C, width) of each frame, from the first k of its `band` on.
        stop: one past the chunk's last frame.
        passed: labels that the path has entered up to the last frame.
        in_label: whether it is in one there.
        positions: the label of each of the chunk's frames, written where there is one.

    Returns:
        The last two for the frame before the chunk.
    """
    num_frames, num_labels = len(positions), passed
    for i in range(num_frames - 1, -1, -1):
        first, _ = band(stop - num_frames + i, stop, num_labels)
        move = moves[i, passed - in_label - first]
        if not in_label:
            in_label = move & BLANK_FROM_LABEL > 0
            continue
        positions[i] = passed - 1
        came = move & (FROM_BLANK | FROM_LABEL)
        in_label = came != FROM_BLANK
        passed -= came != LABEL_STAYS
    return passed, in_label


def chunk_frames(num_frames: int, num_labels: int) -> int:
    """C of the most frames and labels of any utterance."""
    least_memory = round(2 * (num_frames * num_labels) ** (1 / 3))
    return max(1, min(num_frames, max(least_memory, CHUNK_BYTES // (num_labels + LANES))))


def workspace(num_frames: int, num_labels: int) -> tuple[Array, ...]:
    """What one thread needs in `_search` for utterances of at most so many frames and labels.

    The current row of scores, its copies before each chunk, the moves of a chunk, and two rows by place: symbols, skip.
    """
    width = num_labels + 2 * LANES + 2
    chunk = chunk_frames(num_frames, num_labels)
    return (
        np.empty((2, width)),
        np.empty((max(0, num_frames - 1) // chunk, 2, width)),
        np.empty((chunk, min(chunk, num_labels) + LANES), np.uint8),
        np.empty(width, np.int64),
        np.empty(width),
    )


@kernel
def _search(
    order: Array,
    counter: Array,
    logits: Array,
    utterance_stride: int,
    frame_stride: int,
    num_symbols: int,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    blank: int,
    positions: Array,
    possible: Array,
    log_totals: Array,
    best: Array,
    copies: Array,
    moves: Array,
    symbols: Array,
    skip: Array,
) -> None:
    """The best paths of the utterances that it takes.

    Args:
        order: (B,) utterances in the order in which they are taken.
        counter: (1,) how many are taken.
        logits: memory of the logits in one dimension: symbol v of frame t of utterance b is at
            b utterance_stride + t frame_stride + v.
        utterance_stride: see above.
        frame_stride: see above.
        num_symbols: V.
        targets: (B, U).
        input_lengths: (B,).
        target_lengths: (B,).
        blank: id of the blank.
        positions: (B, T), written in the frames of labels only: which one it is.
        possible: (B,) bool, written: whether there is a path.
        log_totals: (B, T), written: logsumexp of each frame's logits; not wanted if the last dimension is 0.
        best: this and the rest are a `workspace`, see also `_step`.
        copies: see above.
        moves: see above.
        symbols: see above.
        skip: see above.
    """
    chunk = len(moves)
    while True:
        i = take(counter)
        if i >= len(order):
            return
        b = order[i]
        num_frames, num_labels = input_lengths[b], target_lengths[b]
        _lay_out(targets[b, :num_labels], blank, symbols, skip)
        fill(best[0], -np.inf)
        fill(best[1], -np.inf)
        best[0, 0] = 0.0  # all paths start before the first blank
        last_chunk = max(0, num_frames - 1) // chunk
        for t in range(last_chunk * chunk):
            if t % chunk == 0:
                copy(best, copies[t // chunk])
            start = b * utterance_stride + t * frame_stride
            row = logits[start : start + num_symbols]
            if log_totals.shape[1] > 0:  # here, since it brings the row near
                log_totals[b, t] = _log_sum_exp(row)
            first, end = band(t, num_frames, num_labels)
            _step(best, row, np.float64(row[blank]), symbols, skip, first, end, None)

        passed, in_label = num_labels, False
        for c in range(last_chunk, -1, -1):
            first_frame, stop = c * chunk, min((c + 1) * chunk, num_frames)
            if c < last_chunk:
                copy(copies[c], best)
            for t in range(first_frame, stop):
                start = b * utterance_stride + t * frame_stride
                row = logits[start : start + num_symbols]
                if c == last_chunk and log_totals.shape[1] > 0:
                    log_totals[b, t] = _log_sum_exp(row)
                first, end = band(t, stop, passed)  # as if the utterance and its labels ended here
                _step(best, row, np.float64(row[blank]), symbols, skip, first, end, moves[t - first_frame])
            if c == last_chunk:  # all paths end in the last label or blank
                in_label = best[1, num_labels] > best[0, num_labels]
                possible[b] = max(best[0, num_labels], best[1, num_labels]) > -np.inf
                if not possible[b]:
                    break
            passed, in_label = _back(moves, stop, passed, in_label, positions[b, first_frame:stop])


def best_paths(batch: Batch, log_totals: Tensor | None) -> tuple[Tensor, Tensor]:
    """The best path of each utterance of a batch on the CPU; see `reference.best_paths`."""
    logits, targets, input_lengths, target_lengths, blank = prepared(batch)
    positions = np.full(logits.shape[:2], -1, np.int64)
    possible = np.empty(len(positions), np.bool_)
    totals = np.empty((len(positions), 0)) if log_totals is None else log_totals.numpy()
    integers = targets.numpy(), input_lengths.numpy(), target_lengths.numpy()
    most = int(integers[1].max()), int(integers[2].max())
    results = positions, possible, totals
    work = *longest_first(integers[1]), *memory(logits), logits.shape[2], *integers, blank, *results
    numbers = totals.size * logits.shape[2] + positions.size * (most[1] + 1)
    on_threads(lambda: _search(*work, *workspace(*most)), len(positions), numbers)
    return torch.from_numpy(positions), torch.from_numpy(possible)
