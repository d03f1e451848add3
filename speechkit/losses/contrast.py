"""Predictions against the frame that comes true and against many that do not, in bounded memory.

What `infonce` and `contrastive_nce` share: they differ in how the scores of the negatives are reduced to one number.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from speechkit.losses.negatives import Negatives

SCORES = ("cosine", "dot")
_ROUNDING = 1e-5  # relative, of scores


class Comparison(NamedTuple):
    """One entry for each of the P predictions of an utterance."""

    positive: Tensor  # (B, P) score of the true frame
    negatives: Tensor  # (B, P) scores of the negatives, reduced
    correct: Tensor  # (B, P) whether the true frame scores highest
    gap: Tensor  # (B, P) score of the true frame less the mean of the negatives', before the temperature; no gradient
    num_negatives: Tensor  # (B, P) how many negatives there were
    valid: Tensor  # (B, P) whether there was a true frame and a negative

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the valid predictions, 0 where there are none: (B, P) -> (B,)."""
        return values.masked_fill(~self.valid, 0.0).sum(dim=1) / self.valid.sum(dim=1).clamp(min=1)


def compare(
    predictions: Tensor,
    latents: Tensor,
    lengths: Tensor,
    negatives: Negatives,
    *,
    reduce: Callable[[Tensor, Tensor], Tensor],
    combine: Callable[[Tensor, Tensor], Tensor],
    temperature: float,
    score: str,
    candidates: Tensor | None,
    codes: Tensor | None,
    num_hardest: int | None,
    chunk_size: int,
) -> Comparison:
    """Scores every prediction. Of (B, P, N) scores only a chunk of the last axis is in memory, backwards too.

    Args:
        predictions: (B, T, K, D), of frame t + k at [:, t, k - 1], or (B, T, D), of frame t at [:, t].
        latents: (B, T, D).
        lengths: (B,) frames.
        negatives: a pool for each utterance (B, N), or of (B, T, D) predictions, N for each (B, T, N).
        reduce: scores (B, P, n) and which of them count (B, P, n) -> (B, P).
        combine: the results of two chunks -> that of both.
        temperature: divides the scores.
        score: "cosine" or "dot"; with linear predictors the latter is the bilinear score z' W c.
        candidates: (B', T', D) that `negatives` point into; none for `latents`.
        codes: (B', T') integers; a negative with the code of the positive is left out.
        num_hardest: keep only that many negatives of each prediction, those of highest score (ties are all kept), and
            a place that was drawn more than once is one of them.
        chunk_size: negatives at a time.

    Raises:
        ValueError: an argument out of its range, or negatives that do not fit the predictions.
    """
    _check(predictions, negatives, temperature, score, num_hardest, chunk_size)
    if score == "cosine":
        predictions, latents = F.normalize(predictions, dim=-1), F.normalize(latents, dim=-1)
        candidates = None if candidates is None else F.normalize(candidates, dim=-1)
    candidates = latents if candidates is None else candidates
    if candidates.shape[1] == 0:  # a batch without frames: places of no negative still point somewhere
        candidates, codes = F.pad(candidates, (0, 0, 0, 1)), None
    if num_hardest is not None:
        negatives = _without_repeats(negatives, candidates.shape[1])
    predictions, positive, target = _against_positives(predictions / temperature, latents)
    scores = _scorer(predictions, latents, negatives, candidates, codes, target)
    spans = [slice(start, start + chunk_size) for start in range(0, negatives.frame.shape[-1], chunk_size)]
    threshold = None if num_hardest is None else _nth_highest(scores, spans, num_hardest)
    result, highest, count, total, num_drawn = _over_chunks(scores, spans, threshold, reduce, combine)
    valid = (target < lengths[:, None]) & (count > 0)
    gap = temperature * (positive.detach() - total / num_drawn.clamp(min=1))
    own = positive.detach()
    rounding = _ROUNDING * (1.0 + own.abs())  # the two are computed in different ways: equal frames are no success
    return Comparison(positive, result, (highest < own - rounding) & valid, gap, count, valid)


def lowest(scores: Tensor) -> float:
    """What stands for the score of a negative that does not count: finite, so that no gradient is NaN."""
    return torch.finfo(scores.dtype).min / 4


def _check(
    predictions: Tensor,
    negatives: Negatives,
    temperature: float,
    score: str,
    num_hardest: int | None,
    chunk_size: int,
) -> None:
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    if score not in SCORES:
        raise ValueError(f"`score` must be one of {', '.join(SCORES)}, got {score!r}.")
    if num_hardest is not None and num_hardest < 1:
        raise ValueError(f"`num_hardest` must be at least 1, got {num_hardest}.")
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    if len(negatives.frame) != len(predictions):
        raise ValueError(f"`negatives` must be of {len(predictions)} utterances, got those of {len(negatives.frame)}.")
    if negatives.utterance is None and (predictions.dim() != 3 or negatives.frame.shape[:2] != predictions.shape[:2]):
        raise ValueError(
            f"`negatives` of each anchor must be (B, T, N) for predictions (B, T, D), "
            f"got {tuple(negatives.frame.shape)} for {tuple(predictions.shape)}."
        )


def _against_positives(predictions: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flattens the predictions: (B, P, D), the scores of their true frames (B, P), and which these are (P,)."""
    frame = torch.arange(predictions.shape[1], device=latents.device)
    if predictions.dim() == 3:
        return predictions, (predictions * latents).sum(dim=-1), frame
    num_steps = predictions.shape[2]
    ahead = torch.arange(1, num_steps + 1, device=latents.device)
    future = F.pad(latents, (0, 0, 0, num_steps))
    of_step = [  # as products and sums: as a matrix product for each prediction they take three times as long
        (predicted * future[:, steps : steps + len(frame)]).sum(dim=-1)
        for steps, predicted in enumerate(predictions.unbind(2), start=1)
    ]
    return predictions.flatten(1, 2), torch.stack(of_step, dim=-1).flatten(1), (frame[:, None] + ahead).flatten()


def _scorer(
    predictions: Tensor,
    latents: Tensor,
    negatives: Negatives,
    candidates: Tensor,
    codes: Tensor | None,
    target: Tensor,
) -> Callable[[slice], tuple[Tensor, Tensor]]:
    """A function from a span of the negatives to their scores (B, P, n) and to which of them count (B, P, n)."""
    everyone = torch.arange(len(predictions), device=target.device)
    own = everyone if negatives.own is None else negatives.own
    if codes is None:  # every frame is like itself alone
        codes = torch.arange(candidates[..., 0].numel(), device=target.device).view(candidates.shape[:2])
    own_codes = codes[own]
    target_codes = own_codes[:, target.clamp(max=codes.shape[1] - 1), None]  # (B, P, 1)

    if negatives.utterance is None:
        table = predictions @ latents.transpose(1, 2)  # every frame once: (B, P, N, D) is never in memory
        is_other = own_codes[:, None] != target_codes

        def of_table(span: slice) -> tuple[Tensor, Tensor]:
            frame = negatives.frame[..., span]
            place = frame.clamp(min=0)
            return table.gather(2, place), (frame >= 0) & is_other.gather(2, place)

        return of_table

    utterance = negatives.utterance

    def of_pool(span: slice) -> tuple[Tensor, Tensor]:
        place = utterance[:, span], negatives.frame[:, span]
        scores = predictions @ candidates[place].transpose(1, 2)
        return scores, (place[1] >= 0)[:, None] & (codes[place][:, None] != target_codes)

    return of_pool


def _over_chunks(
    scores: Callable[[slice], tuple[Tensor, Tensor]],
    spans: list[slice],
    threshold: Tensor | None,
    reduce: Callable[[Tensor, Tensor], Tensor],
    combine: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, ...]:
    """Of the negatives that count, each (B, P): their scores reduced, their highest score, how many there are; then,
    of all that were drawn, the sum of their scores and how many there are."""

    def of_chunk(span: slice) -> tuple[Tensor, ...]:
        chunk, kept = scores(span)
        detached = chunk.detach()
        count = num_drawn = kept.sum(dim=-1)
        total = detached.masked_fill(~kept, 0.0).sum(dim=-1)
        if threshold is not None:
            kept = kept & (detached >= threshold)
            count = kept.sum(dim=-1)
        highest = detached.masked_fill(~kept, lowest(detached)).amax(dim=-1)
        return reduce(chunk, kept), highest, count, total, num_drawn

    def joined(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        sums = (a + b for a, b in zip(one[2:], other[2:], strict=True))
        return combine(one[0], other[0]), torch.maximum(one[1], other[1]), *sums

    if len(spans) == 1:
        return of_chunk(spans[0])
    computed_again = functools.partial(checkpoint, of_chunk, use_reentrant=False, preserve_rng_state=False)
    return functools.reduce(joined, map(computed_again, spans))


def _without_repeats(negatives: Negatives, num_frames: int) -> Negatives:
    """Marks by -1 all but one draw of each place."""
    utterance, frame, own = negatives
    place, order = (frame if utterance is None else utterance * num_frames + frame).sort(dim=-1)
    repeated = F.pad(place[..., 1:] == place[..., :-1], (1, 0))
    repeated = torch.zeros_like(repeated).scatter(-1, order, repeated)
    return Negatives(utterance, frame.masked_fill(repeated, -1), own)


@torch.no_grad()
def _nth_highest(scores: Callable[[slice], tuple[Tensor, Tensor]], spans: list[slice], n: int) -> Tensor:
    """(B, P, 1): what a negative must score to be among the n highest."""
    top = None
    for span in spans:
        of_chunk, kept = scores(span)
        of_chunk = of_chunk.masked_fill(~kept, lowest(of_chunk))
        top = of_chunk if top is None else torch.cat([top, of_chunk], dim=-1)
        top = top.topk(min(n, top.shape[-1]), dim=-1).values
    assert top is not None
    return top[..., -1:]
