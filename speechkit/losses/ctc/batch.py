"""What every backend of the CTC loss takes, and the checks that it has been through."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.masking import length_mask


class Batch(NamedTuple):
    """Logits and the labels that they are held to."""

    logits: Tensor  # (B, T, V), T > 0
    targets: Tensor  # (B, U) padded, on the device of the logits
    input_lengths: Tensor  # (B,), on any device
    target_lengths: Tensor  # (B,), on any device
    blank: int

    def in_single_precision(self) -> Batch:
        """With float32 logits where they have half precision."""
        half = self.logits.dtype in (torch.float16, torch.bfloat16)
        return self._replace(logits=self.logits.float()) if half else self

    def inside(self) -> Tensor:
        """(B, T) true in frames of an utterance, on the device of the logits."""
        return length_mask(self.input_lengths.to(self.logits.device), self.logits.shape[1])

    def labels(self) -> Tensor:
        """(B, U) targets in int64, padding being the blank."""
        inside = length_mask(self.target_lengths.to(self.targets.device), self.targets.shape[1])
        return self.targets.long().masked_fill(~inside, self.blank)


def checked_batch(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int,
    star: int | None = None,
    validate: bool | None = None,
) -> Batch:
    """The batch, with at least one frame and padded targets; arguments as in `speechkit.losses.ctc_loss`.

    Raises:
        ValueError: an argument of the wrong shape, type or device, or, where it is validated, out of its range.
    """
    if logits.dim() != 3 or not logits.is_floating_point() or logits.shape[0] == 0:
        raise ValueError(f"`logits` must be floats (B, T, V), B > 0, got {logits.dtype} {tuple(logits.shape)}.")
    batch, num_frames, num_symbols = logits.shape
    if not 0 <= blank < num_symbols:
        raise ValueError(f"`blank` must lie in [0, V = {num_symbols}), got {blank}.")
    for name, integers in (
        ("targets", targets),
        ("input_lengths", input_lengths),
        ("target_lengths", target_lengths),
    ):
        if integers.is_floating_point() or integers.is_complex() or integers.dtype == torch.bool:
            raise ValueError(f"`{name}` must be integers, got {integers.dtype}.")
    for name, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        if lengths.shape != (batch,):
            raise ValueError(f"`{name}` must be (B,) = ({batch},), got shape {tuple(lengths.shape)}.")
    if targets.device != logits.device:
        raise ValueError(f"`targets` must be on the device of `logits`, {logits.device}, got {targets.device}.")
    if star is not None and 0 <= star < num_symbols:
        raise ValueError(f"`star` must lie outside [0, V = {num_symbols}), got {star}.")
    if validate is None:
        validate = logits.device.type == "cpu"  # looking at values makes any other device wait
    if validate:
        _check_lengths("input_lengths", input_lengths, num_frames)
        _check_lengths("target_lengths", target_lengths, targets.shape[-1] if targets.dim() else 0)
    if targets.dim() == 1:
        if len(targets) != int(target_lengths.sum()):
            raise ValueError(
                f"`targets` must hold sum(target_lengths) = {int(target_lengths.sum())} labels, got {len(targets)}."
            )
        targets = pad_sequence(targets.split(target_lengths.tolist()), batch_first=True)
    if targets.dim() != 2 or targets.shape[0] != batch:
        raise ValueError(f"`targets` must be (B, U) or concatenated, got shape {tuple(targets.shape)} for B = {batch}.")
    if validate:
        _check_labels(targets, target_lengths, num_symbols, blank, star)
    if num_frames == 0:  # the empty text is certain, any other impossible
        logits = F.pad(logits, (0, 0, 0, 1))
    return Batch(logits, targets, input_lengths, target_lengths, blank)


def _check_lengths(name: str, lengths: Tensor, limit: int) -> None:
    wrong = (lengths < 0) | (lengths > limit)
    if wrong.any():
        b = int(wrong.nonzero()[0])
        raise ValueError(f"`{name}` of utterance {b} must lie in [0, {limit}], got {int(lengths[b])}.")


def _check_labels(targets: Tensor, target_lengths: Tensor, num_symbols: int, blank: int, star: int | None) -> None:
    inside = length_mask(target_lengths.to(targets.device), targets.shape[1])
    wrong = inside & ((targets < 0) | (targets >= num_symbols) | (targets == blank))
    if star is not None:
        wrong &= targets != star
    if wrong.any():
        b, k = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"`targets` of utterance {b} must be labels in [0, V = {num_symbols}) other than the blank {blank},"
            f" got {int(targets[b, k])}."
        )


def check_results(results: Tensor, batch: Batch) -> None:
    """Results (B,) that are not a number come from logits that are none, so only then are those looked at.

    Raises:
        ValueError: logits that are NaN or inf, or a frame of nothing but -inf.
    """
    for b in results.isnan().nonzero().flatten().tolist():
        frames = batch.logits[b, : int(batch.input_lengths[b])].detach().double()
        wrong = (~frames.logsumexp(dim=-1).isfinite()).nonzero().flatten().tolist()
        if wrong:
            value, t = float(frames[wrong[0]].max()), wrong[0]
            raise ValueError(
                f"`logits` of utterance {b} must be finite, or -inf for some symbols, got {value} in frame {t}."
            )
