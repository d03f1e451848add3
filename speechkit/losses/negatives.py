"""Negatives of contrastive losses: which frames of the batch, of all ranks together, a prediction is told from.

Lengths (and speakers) enter, places in the batch leave; no latent is copied. What is drawn for an utterance is a
function of its seed and of the joined batch, so it does not depend on the number of ranks.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from speechkit.seeding import random_integers

SOURCES = ("same_utterance", "other_utterances", "same_speaker", "mixed")


class Negatives(NamedTuple):
    """Places of the negatives among the candidates; -1 where there was none to draw.

    Either a pool of N for each utterance, which all of its predictions share, or N of its own for each anchor, then
    from the anchor's own utterance.
    """

    utterance: Tensor | None  # (B, N) index into the candidates; none where all are the own utterance
    frame: Tensor  # (B, N) or (B, M, N) index into its frames
    own: Tensor | None = None  # (B,) which candidate each utterance is itself; none for 0 .. B - 1


class JoinedBatch(NamedTuple):
    """What negatives are drawn from: the utterances of all ranks, B' of them, some without frames."""

    latents: Tensor  # (B', T', D)
    lengths: Tensor  # (B',) frames
    own: Tensor  # (B,) which of them are this rank's
    speakers: Tensor | None  # (B',)


def draw_negatives(
    lengths: Tensor,
    num_negatives: int,
    *,
    source: str = "same_utterance",
    own: Tensor | None = None,
    speakers: Tensor | None = None,
    seeds: Sequence[int] | None = None,
) -> Negatives:
    """Draws a pool of N frames for each utterance, uniformly over the real frames of its source, with replacement.

    More negatives than frames are thus allowed and repeat themselves. The pool may hold the positive of a prediction,
    which differs between the predictions that share it: the losses leave it out. An utterance whose source is empty
    (the only one of its batch, with negatives from others) gets -1 throughout, and the losses count no prediction.

    Args:
        lengths: (B',) frames of the candidates.
        num_negatives: N.
        source: "same_utterance" (what is said matters, not who says it), "other_utterances", "same_speaker" (all
            utterances of the speaker, the own one too), or "mixed" (half from the own, half from other utterances).
        own: (B,) candidates for which to draw; none for all.
        speakers: (B',) for "same_speaker": equal where the speaker is; see `speaker_codes`.
        seeds: B of them, one for each utterance; none draws from torch's generator.

    Raises:
        ValueError: an unknown source, no negatives asked for, or no speakers for "same_speaker".
    """
    if source not in SOURCES:
        raise ValueError(f"`source` must be one of {', '.join(SOURCES)}, got {source!r}.")
    if num_negatives < 1:
        raise ValueError(f"`num_negatives` must be at least 1, got {num_negatives}.")
    if source == "same_speaker" and speakers is None:
        raise ValueError("`speakers` must be given for negatives of the same speaker, got none.")
    everyone = torch.arange(len(lengths), device=lengths.device)
    own = everyone if own is None else own
    is_own = own[:, None] == everyone
    numbers = random_integers((len(own), num_negatives), seeds, lengths.device)
    if source == "mixed":
        halves = numbers.split([(num_negatives + 1) // 2, num_negatives // 2], dim=1)
        drawn = [_places(half, lengths, of) for half, of in zip(halves, (is_own, ~is_own), strict=True)]
        utterance, frame = (torch.cat(part, dim=1) for part in zip(*drawn, strict=True))
        return Negatives(utterance, frame, own)
    if source == "same_speaker":
        assert speakers is not None
        allowed = speakers[own][:, None] == speakers
    else:
        allowed = is_own if source == "same_utterance" else ~is_own
    return Negatives(*_places(numbers, lengths, allowed), own)


def draw_negatives_per_anchor(lengths: Tensor, num_negatives: int, *, seeds: Sequence[int] | None = None) -> Negatives:
    """Draws N frames for every frame of an utterance from its other frames, uniformly, with replacement.

    These are the distractors of masked prediction (Baevski et al. 2020, arXiv 2006.11477, section 3.2), where the
    frames are the masked ones, put together. The positive of frame m is frame m itself and is never drawn. The only
    frame of an utterance gets -1.

    Args:
        lengths: (B,) frames.
        num_negatives: N.
        seeds: B of them, one for each utterance; none draws from torch's generator.

    Raises:
        ValueError: no negatives asked for.
    """
    if num_negatives < 1:
        raise ValueError(f"`num_negatives` must be at least 1, got {num_negatives}.")
    num_frames = int(lengths.max())
    numbers = random_integers((len(lengths), num_frames, num_negatives), seeds, lengths.device)
    others = (lengths - 1)[:, None, None]
    frame = numbers % others.clamp(min=1)
    frame = frame + (frame >= torch.arange(num_frames, device=lengths.device)[:, None])  # steps over the positive
    return Negatives(None, frame.masked_fill(others < 1, -1))


def _places(numbers: Tensor, lengths: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the row of all allowed frames each number, modulo their count, points.

    numbers (B, N), lengths (B',), allowed (B, B') -> utterance (B, N), frame (B, N); -1 where no frame is allowed.
    """
    frames = allowed * lengths
    ends = frames.cumsum(dim=1)
    total = ends[:, -1:]
    place = numbers % total.clamp(min=1)
    utterance = torch.searchsorted(ends, place, right=True).clamp(max=len(lengths) - 1)
    frame = place - (ends - frames).gather(1, utterance)
    empty = total == 0
    return utterance.masked_fill(empty, -1), frame.masked_fill(empty, -1)


def speaker_codes(speakers: Sequence[str | None], ids: Sequence[str]) -> Tensor:
    """(B,) int64, equal where the speaker is, on every rank; an utterance of unknown speaker has a code of its own."""
    names = [f"s{name}" if name is not None else f"u{ident}" for name, ident in zip(speakers, ids, strict=True)]
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in names]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)


def join_ranks(latents: Tensor, lengths: Tensor, speakers: Tensor | None = None) -> JoinedBatch:
    """Gathers the candidates of all ranks, with gradients: a rank gets those of every rank's loss for its latents.

    On one process this copies nothing. The order is the one that one process would have: rank r of W holds utterances
    r, r + W, ... of the joined batch. Ranks may have other numbers of utterances and frames, or only a filler of length
    0; what fills the gaps has length 0.

    Args:
        latents: (B, T, D).
        lengths: (B,) frames.
        speakers: (B,) codes, or none.
    """
    batch, num_frames, _ = latents.shape
    everyone = torch.arange(batch, device=lengths.device)
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return JoinedBatch(latents, lengths, everyone, speakers)
    from torch.distributed.nn.functional import all_gather

    world_size, rank = distributed.get_world_size(), distributed.get_rank()
    largest = torch.tensor([batch, num_frames], device=latents.device)
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    more_utterances, more_frames = (largest - torch.tensor(latents.shape[:2], device=latents.device)).tolist()
    padded = F.pad(latents, (0, 0, 0, more_frames, 0, more_utterances))
    rows = torch.stack([lengths, speakers if speakers is not None else torch.zeros_like(lengths)], dim=1)
    rows = F.pad(rows, (0, 0, 0, more_utterances))
    gathered = [torch.empty_like(rows) for _ in range(world_size)]
    distributed.all_gather(gathered, rows)
    joined_rows = torch.stack(gathered, dim=1).flatten(0, 1)  # utterance b of rank r comes to place b * W + r
    joined = torch.stack(tuple(all_gather(padded.contiguous())), dim=1).flatten(0, 1)
    joined_speakers = joined_rows[:, 1] if speakers is not None else None
    return JoinedBatch(joined, joined_rows[:, 0], everyone * world_size + rank, joined_speakers)
