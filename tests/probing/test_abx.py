"""DTW against a hand-written recursion; ABX on words that are known to be near or far."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechkit.probing import Segment, abx_error, dtw_distance


def dtw_by_hand(x: torch.Tensor, y: torch.Tensor) -> float:
    """Least sum of costs over all monotonic paths, over the length of the path that has it."""
    cost = (1 - F.normalize(x, dim=1) @ F.normalize(y, dim=1).T).double().clamp(min=0).numpy()
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for i, j in np.ndindex(*cost.shape):
        ways = [best[place] for place in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if place in best]
        total, steps = min(ways, key=lambda way: way[0]) if ways else (0.0, 0)
        best[i, j] = (total + cost[i, j], steps + 1)
    total, steps = best[cost.shape[0] - 1, cost.shape[1] - 1]
    return total / steps


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 7), (6, 1), (5, 9), (12, 12)])
def test_dtw_is_the_recursion(first: int, second: int) -> None:
    torch.manual_seed(first)
    x, y = torch.randn(first, 4), torch.randn(second, 4)
    assert dtw_distance(x, y) == pytest.approx(dtw_by_hand(x, y), abs=1e-6)
    assert dtw_distance(x, x) == pytest.approx(0.0, abs=1e-6)
    assert dtw_distance(x, x.repeat_interleave(3, dim=0)) == pytest.approx(0.0, abs=1e-6)


def said(word: int, speaker: int, *, noise: float, of_speaker: float) -> Segment:
    """A word is a path in 8 dimensions; a speaker shifts it."""
    path = torch.randn(6, 8, generator=torch.Generator().manual_seed(word))
    voice = torch.randn(8, generator=torch.Generator().manual_seed(1000 + speaker))
    stretched = path.repeat_interleave(int(torch.randint(1, 3, ())), dim=0)
    return Segment(f"w{word}", f"s{speaker}", stretched + of_speaker * voice + noise * torch.randn(len(stretched), 8))


def corpus(*, noise: float, of_speaker: float) -> list[Segment]:
    torch.manual_seed(0)
    return [
        said(word, speaker, noise=noise, of_speaker=of_speaker)
        for word in range(5)
        for speaker in range(3)
        for _ in "xy"
    ]


def errors(segments: list[Segment]) -> list[float]:
    return [abx_error(segments, across_speakers=across, num_triples=300).error for across in (False, True)]


def test_words_apart_words_of_a_voice_and_noise() -> None:
    assert max(errors(corpus(noise=0.1, of_speaker=0.1))) == 0.0
    within, across = errors(corpus(noise=0.1, of_speaker=4.0))  # a voice that drowns the words is in the way across
    assert within < 0.05 < 0.1 < across
    assert errors(corpus(noise=100.0, of_speaker=0.0)) == pytest.approx([0.5, 0.5], abs=0.12)


def test_ties_count_half() -> None:
    segments = [Segment(word, "s", torch.ones(2, 3)) for word in "aabb"]
    assert abx_error(segments, across_speakers=False, num_triples=20).error == 0.5


def test_the_seed_decides() -> None:
    segments = corpus(noise=1.5, of_speaker=0.5)
    scores = [abx_error(segments, across_speakers=False, num_triples=100, seed=seed) for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize(
    ("words", "across", "possible"),
    [
        ([("a", "s"), ("a", "s"), ("b", "s")], False, True),
        ([("a", "s"), ("b", "s")], False, False),
        ([("a", "s"), ("a", "s")], False, False),
        ([("a", "s"), ("a", "t"), ("b", "s")], True, True),
        ([("a", "s"), ("a", "s"), ("b", "s"), ("b", "s")], True, False),
        ([("a", "s"), ("a", "t")], True, False),
        ([], True, False),
    ],
)
def test_what_a_triple_needs(words: list[tuple[str, str]], across: bool, possible: bool) -> None:
    segments = [Segment(word, speaker, torch.randn(2, 3)) for word, speaker in words]
    assert (abx_error(segments, across_speakers=across, num_triples=5) is not None) == possible
