"""Words of a best path: their frames, their confidence, and pauses that move their ends."""

import math

import numpy as np
import pytest
import torch

from speechkit.decoding import extend_to_pauses, find_words, greedy_decode, greedy_spans
from speechkit.text import CharTokenizer, WordTokenizer

TOKENIZER = CharTokenizer([" ", "a", "b"])


def logits_of(path: list[int], sharpness: float = 5.0) -> torch.Tensor:
    return sharpness * torch.nn.functional.one_hot(torch.tensor(path), 4).float()


def test_words_by_hand() -> None:
    path = [0, 2, 2, 0, 3, 1, 0, 2, 0]  # aa b | a
    ((first, second),) = find_words(logits_of(path)[None], torch.tensor([9]), [[2, 3, 1, 2]], TOKENIZER)
    probability = math.exp(5) / (math.exp(5) + 3)
    assert first == ("ab", 1, 5, pytest.approx(probability))
    assert second == ("a", 7, 8, pytest.approx(probability))


def test_a_temperature_flattens_confidence() -> None:
    arguments = logits_of([2])[None], torch.tensor([1]), [[2]], TOKENIZER
    ((sure,),), ((unsure,),) = find_words(*arguments), find_words(*arguments, temperature=1000.0)
    assert sure.confidence > 0.97
    assert unsure.confidence == pytest.approx(0.25, abs=0.01)


def test_padding_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(length, 4, generator=generator) for length in (7, 20, 1)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9.0)
    lengths = torch.tensor([7, 20, 1])
    labels = greedy_decode(padded, lengths)
    together = find_words(padded, lengths, labels, TOKENIZER)
    assert together == [
        find_words(row[None], torch.tensor([len(row)]), [label], TOKENIZER)[0]
        for row, label in zip(rows, labels, strict=True)
    ]


def test_nothing_said_and_what_does_not_fit() -> None:
    logits, lengths = torch.zeros(2, 2, 4), torch.tensor([2, 2])
    assert find_words(logits, lengths, [[], []], TOKENIZER) == [[], []]
    assert find_words(logits, lengths, [[2, 2], [2, 3]], TOKENIZER) == [[], [("ab", 0, 2, pytest.approx(0.25))]]


def test_spans_of_the_likeliest_path() -> None:
    path = [1, 1, 0, 1, 3, 3, 0]
    assert greedy_spans(logits_of(path)) == ([1, 1, 3], [0, 3, 4], [2, 4, 6])
    assert greedy_spans(torch.zeros(0, 4)) == ([], [], [])


@pytest.mark.parametrize("seed", range(5))
def test_no_word_loses_frames_to_a_pause(seed: int) -> None:
    generator = np.random.default_rng(seed)
    spans = [(0.0125 + 0.01 * first, 0.0225 + 0.01 * first) for first in range(3, 190, 7)]  # of one frame of 10 ms
    levels = generator.choice([-20.0, -80.0], size=200)
    for (start, end), (moved_start, moved_end) in zip(
        spans, extend_to_pauses(spans, levels, step=0.01, start=0.0, end=2.0), strict=True
    ):
        assert moved_start <= start + 1e-6
        assert moved_end >= end - 1e-6


def test_pauses_part_words() -> None:
    levels = np.full(100, -20.0)
    levels[:10] = levels[38:42] = levels[50:60] = levels[90:] = -70.0  # a closure at 38, a pause at 50
    words = [(0.25, 0.27), (0.7, 0.75)]
    assert extend_to_pauses(words, levels, step=0.01, start=0.0, end=1.0) == [
        (pytest.approx(0.1), pytest.approx(0.5)),
        (pytest.approx(0.6), pytest.approx(0.9)),
    ]


def test_fluent_speech_keeps_its_times() -> None:
    words = [(0.25, 0.27), (0.7, 0.75)]
    levels = np.full(100, -20.0) + np.random.default_rng(0).normal(0, 2, 100)
    assert extend_to_pauses(words, levels, step=0.01, start=0.0, end=1.0) == [(0.0, 0.27), (0.7, 1.0)]
    assert extend_to_pauses(words, np.tile(levels, 5), step=0.01, start=-1.0, end=4.0) == words
    assert extend_to_pauses(words, np.zeros(0), step=0.01, start=0.0, end=1.0) == words
    assert extend_to_pauses([], levels, step=0.01, start=0.0, end=1.0) == []


def test_words_as_labels() -> None:
    tokenizer = WordTokenizer(["one", "two", "three"])
    ((word,),) = find_words(logits_of([0, 3, 3, 0])[None], torch.tensor([4]), [[3]], tokenizer)
    assert word[:3] == ("three", 1, 3)
