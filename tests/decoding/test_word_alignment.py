"""Alignments of words: the counts of the error rate, pairs that are alike, and the confusions over a set."""

import random

import pytest

from speechkit.decoding import AlignedWord, align_words, count_confusions, count_errors

WORDS = ["a", "ab", "abc", "cab", "x"]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "aligned"),
    [
        ("a b c", "a b c", [("a", "a"), ("b", "b"), ("c", "c")]),
        ("a b c", "a x c", [("a", "a"), ("b", "x"), ("c", "c")]),
        ("a b", "", [("a", None), ("b", None)]),
        ("", "a b", [(None, "a"), (None, "b")]),
        ("", "", []),
        ("a berry pie", "very pie", [("a", None), ("berry", "very"), ("pie", "pie")]),
        ("sixty pies", "six tea pies", [("sixty", "six"), (None, "tea"), ("pies", "pies")]),
        ("one two three four", "won for", [("one", "won"), ("two", None), ("three", None), ("four", "for")]),
    ],
)
def test_words_that_are_alike_are_paired(
    reference: str, hypothesis: str, aligned: list[tuple[str | None, str | None]]
) -> None:
    assert align_words(reference.split(), hypothesis.split()) == aligned


@pytest.mark.parametrize("seed", range(20))
def test_alignment_holds_both_texts_and_the_errors_that_are_counted(seed: int) -> None:
    generator = random.Random(seed)
    reference, hypothesis = (generator.choices(WORDS, k=generator.randint(0, 12)) for _ in range(2))
    aligned = align_words(reference, hypothesis)
    assert [word.reference for word in aligned if word.reference is not None] == reference
    assert [word.hypothesis for word in aligned if word.hypothesis is not None] == hypothesis
    substituted, deleted, inserted = (sum(counts.values()) for counts in count_confusions([aligned]))
    assert (substituted, deleted, inserted) == count_errors(reference, hypothesis)[:3]


def test_confusions_are_counted_over_utterances() -> None:
    wrong, lost = AlignedWord("the", "a"), AlignedWord("the", None)
    confusions = count_confusions([[wrong, AlignedWord("cat", "cat"), lost], [wrong, AlignedWord(None, "the")]])
    assert confusions == ({("the", "a"): 2}, {"the": 1}, {"the": 1})
