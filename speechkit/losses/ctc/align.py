"""Forced alignment: the best path of CTC through given labels, and when each of them is spoken."""

import importlib
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.losses.ctc import reference
from speechkit.losses.ctc.batch import Batch, check_results, checked_batch

BACKENDS = ("auto", "numba", "reference")
CHUNK_NUMBERS = 1 << 20  # logits that are copied, or normalised elsewhere than in the search, at a time


class Alignment(NamedTuple):
    """When the labels of each utterance are spoken; on the device of the logits."""

    path: Tensor  # (B, T) int64 symbol of each frame, the star's id under a star; blank beyond an utterance's length
    positions: Tensor  # (B, T) int64 which of the utterance's labels each frame belongs to, -1 for blanks and beyond
    starts: Tensor  # (B, U) int64 first frame of each label; -1 beyond target_lengths
    ends: Tensor  # (B, U) int64 one past the last frame of each label; -1 beyond target_lengths
    scores: Tensor  # (B, U) mean over a label's own frames of its natural log-probability; -inf beyond target_lengths
    log_probs: Tensor  # (B,) natural log-probability of the path: the sum over all its frames


@torch.no_grad()
def ctc_align(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
    star: int | None = None,
    star_penalty: float = 0.0,
    validate: bool | None = None,
    backend: str = "auto",
) -> Alignment:
    """The most likely path through given labels, by the algorithm of Viterbi (Rabiner 1989, section III.B).

    A path is scored by the sum of its logits, in float64 and in the order of frames, and none has a better score. Where
    ways to a state tie, the one from the state furthest along blank, label 1, blank, ..., label U, blank is taken, and
    the last blank rather than the last label. So of several best paths it is the one that is furthest along in the last
    frame in which they differ, whatever the backend, the device, or the rest of the batch.

    Where there is no path, for want of frames or because a symbol cannot be, `path` is blank throughout, positions,
    starts and ends are -1, and scores and log_probs are -inf.

    The search is on the CPU, among whose threads utterances are shared out. float32 and float64 logits that are there,
    their symbols being neighbours in memory, are read where they are. Of all others, and where there is a star, those
    of the symbols in the targets are copied: (B, T, min(U, V) + 1) at most. Each thread takes another 12 (T U)^(2/3)
    bytes, or 1 MB if that is more.

    Args:
        logits: (B, T, V), not normalised, of any floating-point type and any strides.
        targets: (B, U) padded, or (sum of target_lengths,) concatenated labels, on the device of the logits.
        input_lengths: (B,) frames of each utterance, on any device.
        target_lengths: (B,) labels of each utterance, on any device.
        blank: id of the blank.
        star: an id outside [0, V) that stands in the targets for whatever was said there, see `ctc_loss`.
        star_penalty: nats that each frame under a star costs; without a cost, a star takes all the frames it can.
        validate: whether values of tensors are looked at; None: they are, since a GPU waits for the search anyhow.
        backend: "numba", "reference" (NumPy, slow), or "auto": the first that can be imported.

    Returns:
        The alignment, with scores and log_probs in float32 (float64 for float64 logits). A frame under a star counts
        -star_penalty in both.

    Raises:
        ValueError: an argument out of its range or of the wrong shape, NaN or inf among the logits, or a backend that
            cannot run. Where they are not looked at, NaN and inf give no path, and log_probs of NaN.
    """
    search, validate = _backend(backend), validate is not False
    batch = checked_batch(
        logits.detach(), targets, input_lengths, target_lengths, blank=blank, star=star, validate=validate
    )
    log_totals = torch.zeros(batch.logits.shape[:2], dtype=torch.float64)
    if star is None and _in_place(batch.logits):
        positions, possible = search.best_paths(batch, log_totals)
    else:
        positions, possible = search.best_paths(_of_targets(batch, log_totals, star, star_penalty), None)
    sound = log_totals.isfinite().all(dim=1)
    positions.masked_fill_(~sound[:, None], -1)

    num_labels = batch.targets.shape[1]
    places = positions.where(positions >= 0, num_labels)  # of blanks, after all labels
    path = F.pad(batch.labels(), (0, 1), value=blank).gather(1, places.to(logits.device))
    of_frames = _log_probs(batch, path, log_totals, star, star_penalty)
    starts, ends, scores = _of_labels(places, of_frames, num_labels)
    log_probs = of_frames.cumsum(dim=1)[:, -1]  # one by one, so that frames beyond the length change nothing
    log_probs = log_probs.where(possible, -torch.inf).where(sound, torch.nan)
    if validate:
        check_results(log_probs, batch)
    num_frames = logits.shape[1]
    return Alignment(
        path[:, :num_frames],
        positions[:, :num_frames].to(logits.device),
        starts.to(logits.device),
        ends.to(logits.device),
        scores.to(_precision(logits)).to(logits.device),
        log_probs.to(_precision(logits)).to(logits.device),
    )


def _backend(name: str) -> ModuleType:
    """The module of a backend, each with `best_paths`."""
    if name not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, got {name!r}.")
    if name == "reference":
        return reference
    try:
        return importlib.import_module("speechkit.losses.ctc.numba_viterbi")
    except ImportError as error:
        if name == "auto":
            return reference
        raise ValueError(
            f'`backend` must be "auto" or "reference" where Numba cannot be imported ({error}).'
        ) from error


def _precision(logits: Tensor) -> torch.dtype:
    """float64 of float64 logits, float32 of all others."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _in_place(logits: Tensor) -> bool:
    """Whether the search can read the logits where they are."""
    return logits.device.type == "cpu" and logits.dtype == _precision(logits) and logits.stride(2) == 1


def _under(star: int | None, symbols: Tensor) -> Tensor:
    """Which of the symbols are the star."""
    return torch.zeros_like(symbols, dtype=torch.bool) if star is None else symbols == star


def _of_targets(batch: Batch, log_totals: Tensor, star: int | None, star_penalty: float) -> Batch:
    """The batch on the CPU with no symbols but the blank, now 0, and those of an utterance's own targets.

    Each utterance is looked at by itself, some frames at a time, so that no other changes a bit of it. `log_totals`
    (B, T) is filled with the logsumexp of each of its frames.
    """
    logits, dtype = batch.logits, _precision(batch.logits)
    most = max(1, CHUNK_NUMBERS // logits.shape[2])
    symbols, targets = zip(*(row.unique(return_inverse=True) for row in batch.labels()), strict=True)
    columns = torch.zeros(*logits.shape[:2], 1 + max(map(len, symbols)), dtype=dtype)
    for b, num_frames in enumerate(batch.input_lengths.tolist()):
        is_star = _under(star, symbols[b])
        chosen = symbols[b].masked_fill(is_star, batch.blank)
        for first in range(0, num_frames, most):
            frames = slice(first, min(first + most, num_frames))
            rows = logits[b, frames].to(dtype)
            totals = rows.logsumexp(dim=1, keepdim=True)
            log_totals[b, frames] = totals[:, 0].to("cpu")
            columns[b, frames, 0] = rows[:, batch.blank].to("cpu")
            columns[b, frames, 1 : 1 + len(chosen)] = rows[:, chosen].where(~is_star, totals - star_penalty).to("cpu")
    lengths = batch.input_lengths.to("cpu"), batch.target_lengths.to("cpu")
    return Batch(columns, torch.stack(targets).to("cpu") + 1, *lengths, 0)


def _log_probs(batch: Batch, path: Tensor, log_totals: Tensor, star: int | None, star_penalty: float) -> Tensor:
    """(B, T) float64 log-probability of the path's symbol in each frame, 0 beyond an utterance's length; on the CPU."""
    is_star = _under(star, path)
    chosen = batch.logits.gather(2, path.masked_fill(is_star, batch.blank)[:, :, None])[:, :, 0]
    log_probs = chosen.to("cpu").double() - log_totals
    return log_probs.masked_fill(is_star.to("cpu"), -star_penalty).masked_fill(~batch.inside().to("cpu"), 0.0)


def _of_labels(places: Tensor, of_frames: Tensor, num_labels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, ends and scores (B, U) of labels.

    Args:
        places: (B, T) label of each frame, U for none.
        of_frames: (B, T) float64 log-probability of each frame.
        num_labels: U.
    """
    by_label = len(places), num_labels + 1
    sums = torch.zeros(by_label, dtype=torch.float64).scatter_add(1, places, of_frames)[:, :num_labels]
    counts = torch.zeros(by_label, dtype=torch.int64).scatter_add(1, places, torch.ones_like(places))[:, :num_labels]
    frames = torch.arange(places.shape[1]).expand_as(places)
    starts = torch.full(by_label, -1).scatter_reduce(1, places, frames, "amin", include_self=False)[:, :num_labels]
    return starts, starts + counts, (sums / counts).where(counts > 0, -torch.inf)
