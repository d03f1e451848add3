"""ABX: is X, the same word as A, nearer to A than to another word B (Schatz et al. 2013)?

"Evaluating speech features with the Minimal-Pair ABX task", Interspeech 2013. It needs no training, so it says how the
frames lie, not what a classifier can make of them. Error 50 % is chance.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor


class Segment(NamedTuple):
    """A word as it was said once."""

    word: str
    speaker: str
    frames: Tensor  # (T, D), at least one


class ABXScore(NamedTuple):
    """Share of triples in which X is nearer to B than to A, ties counting half."""

    error: float
    num_triples: int


def dtw_distance(x: Tensor, y: Tensor) -> float:
    """Mean cosine distance along the best path of dynamic time warping: (T, D), (T', D) -> [0, 2]."""
    import librosa

    cost = 1.0 - F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
    total, path = librosa.sequence.dtw(C=cost.double().clamp(min=0.0).numpy())
    return float(total[-1, -1]) / len(path)


def abx_error(
    segments: Sequence[Segment], *, across_speakers: bool, num_triples: int = 1000, seed: int = 0
) -> ABXScore | None:
    """Draws triples, each speaker, word and other word being as likely as the next, and scores them.

    Args:
        segments: of any words and speakers.
        across_speakers: A and B are of one speaker and X of another; otherwise all three are of one.
        num_triples: how many.
        seed: of the draws.

    Returns:
        The score; none where there is no triple: no word said twice and another word besides.
    """
    by_place: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))  # speaker -> word -> segments
    by_word: dict[str, set[str]] = defaultdict(set)  # word -> speakers
    for place, segment in enumerate(segments):
        by_place[segment.speaker][segment.word].append(place)
        by_word[segment.word].add(segment.speaker)
    words = {
        speaker: [
            word
            for word, places in of_speaker.items()
            if (len(by_word[word]) > 1 if across_speakers else len(places) > 1)
        ]
        for speaker, of_speaker in by_place.items()
        if len(of_speaker) > 1
    }
    speakers = sorted(speaker for speaker, of_speaker in words.items() if of_speaker)
    if not speakers:
        return None
    generator = np.random.default_rng(seed)
    distances: dict[tuple[int, int], float] = {}

    def distance(first: int, second: int) -> float:
        if (first, second) not in distances:
            distances[first, second] = dtw_distance(segments[first].frames, segments[second].frames)
        return distances[first, second]

    errors = 0.0
    for _ in range(num_triples):
        speaker = str(generator.choice(speakers))
        word = str(generator.choice(words[speaker]))
        other = str(generator.choice([item for item in by_place[speaker] if item != word]))
        a, b = int(generator.choice(by_place[speaker][word])), int(generator.choice(by_place[speaker][other]))
        of_x = str(generator.choice(sorted(by_word[word] - {speaker}))) if across_speakers else speaker
        x = int(generator.choice([place for place in by_place[of_x][word] if place != a]))
        to_a, to_b = distance(a, x), distance(b, x)
        errors += 0.5 if to_a == to_b else float(to_a > to_b)
    return ABXScore(errors / num_triples, num_triples)
