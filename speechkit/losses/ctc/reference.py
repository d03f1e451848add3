"""CTC to be read and to be tested against: float64, log space, one utterance and one frame at a time."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.losses.ctc.batch import Batch
from speechkit.losses.ctc.once import with_gradient

Array = NDArray[Any]


class Result(NamedTuple):
    """Of one utterance."""

    loss: float  # infinite where there is no path
    gradient: Array  # (T, V) of the loss with respect to the logits; NaN where there is no path
    occupancies: Array  # (T, V) probability of each symbol in each frame, given the labels; 0 where there is no path


@np.errstate(invalid="ignore")  # NaN comes out as it went in
def forward_backward(logits: Array, labels: list[int], *, blank: int, label_smoothing: float = 0.0) -> Result:
    """The forward and backward variables of Graves et al. 2006 (section 4.1), on states blank, label, ..., blank.

    Args:
        logits: (T, V) float64.
        labels: U labels, none of them the blank.
        blank: id of the blank.
        label_smoothing: weight of the cross entropy to uniform, see `speechkit.losses.ctc_loss`.
    """
    num_frames, num_symbols = logits.shape
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    may_skip = states[2:] != states[:-2]  # of state s + 2: not where it repeats a label ...
    may_skip &= states[2:] != blank  # ... and not from blank to blank

    alphas = np.full((num_frames + 1, len(states)), -np.inf)  # row t: paths through the frames before t
    alphas[0, 0] = 0.0  # all start in the first blank, before any frame
    for t in range(num_frames):
        before, after = alphas[t], alphas[t + 1]
        after[:] = before
        after[1:] = np.logaddexp(after[1:], before[:-1])
        after[2:] = np.where(may_skip, np.logaddexp(after[2:], before[:-2]), after[2:])
        after += log_probs[t, states]
    log_total = np.logaddexp.reduce(alphas[-1, -2:])  # all end in the last label or blank
    occupancies = np.zeros_like(logits)
    if log_total == -np.inf:
        return Result(np.inf, np.full_like(logits, np.nan), occupancies)

    rest = np.full(len(states), -np.inf)  # paths through the frames after t, t + 1 included
    rest[-1] = 0.0
    for t in reversed(range(num_frames)):
        beta = rest.copy()
        beta[:-1] = np.logaddexp(beta[:-1], rest[1:])
        beta[:-2] = np.where(may_skip, np.logaddexp(beta[:-2], rest[2:]), beta[:-2])
        np.add.at(occupancies[t], states, np.exp(alphas[t + 1] + beta - log_total))
        rest = beta + log_probs[t, states]

    loss, gradient = -log_total, np.exp(log_probs) - (1.0 - label_smoothing) * occupancies
    if label_smoothing > 0.0:
        loss = (1.0 - label_smoothing) * loss - label_smoothing * log_probs.mean(axis=1).sum()
        gradient -= label_smoothing / num_symbols
    return Result(float(loss), gradient, occupancies)


def _results(batch: Batch, label_smoothing: float = 0.0) -> list[Result]:
    rows, labels = batch.logits.detach().to("cpu", torch.float64).numpy(), batch.targets.tolist()
    lengths = zip(batch.input_lengths.tolist(), batch.target_lengths.tolist(), strict=True)
    return [
        forward_backward(rows[b, :frames], labels[b][:count], blank=batch.blank, label_smoothing=label_smoothing)
        for b, (frames, count) in enumerate(lengths)
    ]


def ctc_losses(batch: Batch, *, zero_infinity: bool, label_smoothing: float) -> Tensor:
    """Losses (B,), differentiable with respect to the logits; arguments as in `speechkit.losses.ctc_loss`."""
    batch = batch.in_single_precision()
    results = _results(batch, label_smoothing)
    losses = torch.tensor([result.loss for result in results], dtype=torch.float64)
    gradient = torch.zeros(batch.logits.shape, dtype=torch.float64)
    for b, result in enumerate(results):
        gradient[b, : len(result.gradient)] = torch.from_numpy(result.gradient)
    if zero_infinity:
        impossible = losses.isinf()
        losses[impossible], gradient[impossible] = 0.0, 0.0
    return with_gradient(batch.logits, losses, gradient)


def ctc_occupancies(batch: Batch) -> Tensor:
    """Occupancies (B, T, V); see `speechkit.losses.ctc_occupancies`."""
    occupancies = torch.zeros_like(batch.in_single_precision().logits)
    for b, result in enumerate(_results(batch)):
        occupancies[b, : len(result.occupancies)] = torch.from_numpy(result.occupancies).to(occupancies)
    return occupancies


@np.errstate(invalid="ignore")
def viterbi(logits: Array, labels: list[int], *, blank: int) -> Array | None:
    """The best path: `forward_backward` with the greatest in place of the sum (Rabiner 1989, section III.B).

    Normalisers are the same for all paths, so logits will do. Of several best paths it is the one that is furthest
    along the states blank, label, ..., blank in the last frame in which they differ.

    Args:
        logits: (T, V) float64.
        labels: U labels, none of them the blank.
        blank: id of the blank.

    Returns:
        (T,) states of the path; None where there is no path.
    """
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    may_skip = (states[2:] != states[:-2]) & (states[2:] != blank)

    best = np.full(len(states), -np.inf)
    best[0] = 0.0  # all start in the first blank, before any frame
    moves = np.zeros((len(logits), len(states)), np.int64)  # how many states on from the frame before
    for t, row in enumerate(logits):
        ways = np.full((3, len(states)), -np.inf)
        ways[0] = best
        ways[1, 1:] = best[:-1]
        ways[2, 2:] = np.where(may_skip, best[:-2], -np.inf)
        moves[t] = ways.argmax(axis=0)  # of equals the first, which comes from furthest along
        best = ways.max(axis=0) + row[states]

    state = len(states) - 1
    if len(states) > 1 and best[-2] > best[-1]:  # all end in the last label or blank
        state -= 1
    if not best[state] > -np.inf:
        return None
    path = np.empty(len(logits), np.int64)
    for t in reversed(range(len(logits))):
        path[t] = state
        state -= moves[t, state]
    return path


def best_paths(batch: Batch, log_totals: Tensor | None) -> tuple[Tensor, Tensor]:
    """The best path of each utterance of a batch on the CPU.

    Args:
        batch: float32 or float64 logits.
        log_totals: (B, T) float64, filled with the logsumexp of each frame of an utterance, unless None.

    Returns:
        (B, T) int64 index in the targets of the label of each frame, -1 for the blank, beyond an utterance's length,
        and where there is no path; and (B,) bool, whether there is a path.
    """
    rows, labels = batch.logits.double().numpy(), batch.targets.tolist()
    lengths = zip(batch.input_lengths.tolist(), batch.target_lengths.tolist(), strict=True)
    positions = torch.full(batch.logits.shape[:2], -1)
    possible = torch.zeros(len(rows), dtype=torch.bool)
    for b, (frames, count) in enumerate(lengths):
        path = viterbi(rows[b, :frames], labels[b][:count], blank=batch.blank)
        if path is not None:
            positions[b, :frames] = torch.from_numpy(np.where(path % 2 == 1, path // 2, -1))
            possible[b] = True
        if log_totals is not None:
            log_totals[b, :frames] = batch.logits[b, :frames].double().logsumexp(dim=1)
    return positions, possible
