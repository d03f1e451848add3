"""Word and character error rates with their counts, and the uncertainty of a small test set."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

_DRAWS_AT_A_TIME = 1 << 20  # of the bootstrap: some 20 MB


class ErrorCounts(NamedTuple):
    """Edits that turn a reference into a hypothesis, and the reference's length."""

    substitutions: int
    deletions: int
    insertions: int
    length: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


class ErrorRate(NamedTuple):
    """Errors over reference length of a whole set, with a 95 % interval; fractions."""

    value: float
    interval: tuple[float, float]
    counts: ErrorCounts


def count_errors(reference: Sequence, hypothesis: Sequence) -> ErrorCounts:
    """Levenshtein edits between two sequences (of words, or a string's characters)."""
    kinds = [operation.tag for operation in Levenshtein.editops(reference, hypothesis)]
    return ErrorCounts(kinds.count("replace"), kinds.count("delete"), kinds.count("insert"), len(reference))


def error_rate(counts: Sequence[ErrorCounts], *, seed: int = 0) -> ErrorRate:
    """Pools the counts of utterances.

    Raises:
        ValueError: the references are empty altogether.
    """
    total = ErrorCounts(*(sum(column) for column in zip(*counts, strict=True))) if counts else ErrorCounts(0, 0, 0, 0)
    if total.length == 0:
        raise ValueError("`counts` must hold at least one reference symbol, got none.")
    return ErrorRate(total.errors / total.length, bootstrap_interval(counts, seed=seed), total)


def bootstrap_interval(
    counts: Sequence[ErrorCounts], *, num_samples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap over utterances (Bisani and Ney 2004): the interval of the pooled error rate.

    Where utterances are all alike, as one alone is, or many without an error, drawing among them tells nothing: then
    the interval is Wilson's (1927), for symbols that are right or wrong independently of each other.
    """
    errors = np.array([count.errors for count in counts])
    lengths = np.array([count.length for count in counts])
    generator = np.random.default_rng(seed)
    rates = np.empty(num_samples)
    block = max(1, _DRAWS_AT_A_TIME // len(counts))
    for first in range(0, num_samples, block):
        sampled = generator.integers(len(counts), size=(min(block, num_samples - first), len(counts)))
        rates[first : first + block] = errors[sampled].sum(axis=1) / np.maximum(lengths[sampled].sum(axis=1), 1)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    if low == high:
        return _wilson_interval(int(errors.sum()), max(1, int(lengths.sum())), level)
    return float(low), float(high)


def _wilson_interval(errors: int, length: int, level: float) -> tuple[float, float]:
    """Of a rate; with more errors than symbols its upper end is the rate itself."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = min(errors / length, 1.0)
    centre = (rate + z * z / (2 * length)) / (1 + z * z / length)
    reach = z / (1 + z * z / length) * math.sqrt(rate * (1 - rate) / length + (z / (2 * length)) ** 2)
    return max(0.0, min(centre - reach, rate)), max(centre + reach, errors / length)
