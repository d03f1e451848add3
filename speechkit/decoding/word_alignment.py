"""Which word of a hypothesis stands for which of the reference, and which words are taken for which."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate, groupby
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


class AlignedWord(NamedTuple):
    """A word that is right, substituted, deleted (no `hypothesis`) or inserted (no `reference`)."""

    reference: str | None
    hypothesis: str | None

    @property
    def is_right(self) -> bool:
        return self.reference == self.hypothesis


class Confusions(NamedTuple):
    """How often what went wrong, over a set of utterances."""

    substituted: Counter[tuple[str, str]]  # (reference, hypothesis)
    deleted: Counter[str]
    inserted: Counter[str]


def align_words(reference: Sequence[str], hypothesis: Sequence[str]) -> list[AlignedWord]:
    """An alignment of the fewest errors (Levenshtein), with the counts of `count_errors`.

    Of the words between two that are right, those are paired that are spelled alike: the fewest errors leave open
    whether "a berry pie" heard as "very pie" lost "a" or "berry".

    >>> align_words("a berry pie".split(), "very pie".split())[:2]
    [AlignedWord(reference='a', hypothesis=None), AlignedWord(reference='berry', hypothesis='very')]
    """
    words: list[AlignedWord] = []
    operations = Levenshtein.opcodes(reference, hypothesis)
    for is_right, group in groupby(operations, key=lambda operation: operation.tag == "equal"):
        block = list(group)
        said = reference[block[0].src_start : block[-1].src_end]
        heard = hypothesis[block[0].dest_start : block[-1].dest_end]
        words += map(AlignedWord, said, heard) if is_right else _pair_alike(said, heard)
    return words


def count_confusions(alignments: Iterable[Iterable[AlignedWord]]) -> Confusions:
    """Counts the errors of utterances by their words."""
    confusions = Confusions(Counter(), Counter(), Counter())
    for word in (word for alignment in alignments for word in alignment if not word.is_right):
        if word.reference is not None and word.hypothesis is not None:
            confusions.substituted[word.reference, word.hypothesis] += 1
        elif word.reference is not None:
            confusions.deleted[word.reference] += 1
        elif word.hypothesis is not None:
            confusions.inserted[word.hypothesis] += 1
    return confusions


def _pair_alike(said: Sequence[str], heard: Sequence[str]) -> list[AlignedWord]:
    """Every word of the shorter sequence with one of the longer, in order, the sum of their distances being least."""
    if len(said) > len(heard):
        return [AlignedWord(word.hypothesis, word.reference) for word in _pair_alike(heard, said)]
    surplus = len(heard) - len(said)
    costs, skips_before = [0.0] * (surplus + 1), []  # by how many words of `heard` were skipped so far
    for place, word in enumerate(said):
        cheapest = list(accumulate(range(surplus + 1), partial(min, key=costs.__getitem__)))
        distances = [Levenshtein.normalized_distance(word, heard[place + skips]) for skips in range(surplus + 1)]
        costs = [costs[before] + distance for before, distance in zip(cheapest, distances, strict=True)]
        skips_before.append(cheapest)
    skips = min(range(surplus + 1), key=costs.__getitem__)
    partners: dict[int, str] = {}
    for place in reversed(range(len(said))):
        partners[place + skips] = said[place]
        skips = skips_before[place][skips]
    return [AlignedWord(partners.get(place), word) for place, word in enumerate(heard)]
