"""Interpolated modified Kneser-Ney estimation of an n-gram language model from text.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (TR-10-98, 1998), section 3, with
the order of steps, the treatment of <s> and <unk> and the pruning of KenLM's `lmplz` (Heafield et al., "Scalable
modified Kneser-Ney language model estimation", ACL 2013). With a(h w) the adjusted count of an n-gram (how often it was
seen for the highest order and where it begins with <s>, otherwise how many different words were seen before it):

    p(w | h) = (a(h w) - D(a(h w))) / sum_v a(h v) + gamma(h) p(w | h[1:])
    gamma(h) = sum_v D(a(h v)) / sum_v a(h v)

and gamma(h) is the back-off weight of h. The last interpolation is with the uniform distribution over all words, </s>
and <unk>, which is all that <unk> gets. What pruning drops goes into gamma(h) too.
"""

import logging
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechkit.decoding.ngram import BEGIN, END, UNKNOWN, Level, NGram
from speechkit.text import normalize_text

MAX_ORDER = 6  # KenLM and what is built on it reads no more
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # those of `lmplz --discount_fallback`

_log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """The different n-grams of one order n in a text, M of them; both of <unk> and <s> are 0 as unigrams."""

    words: NDArray[Any]  # (M,) id of the last word
    prefixes: NDArray[Any]  # (M,) row of the first n - 1 words among the counts of order n - 1; 0 for unigrams
    suffixes: NDArray[Any]  # (M,) row of the last n - 1 words
    seen: NDArray[Any]  # (M,) how often
    adjusted: NDArray[Any]  # (M,) that, or how many different words were seen before it


class Discounts(NamedTuple):
    """What is taken from adjusted counts of 1, 2, and 3 or more."""

    one: float
    two: float
    three_or_more: float
    is_estimated: bool  # from the counts; otherwise they were too few or out of range


def train_kneser_ney(texts: Iterable[str], *, order: int = 3, prune: Sequence[int] = (0,)) -> NGram:
    """Estimates a language model from sentences.

    Args:
        texts: one sentence each; `normalize_text` is applied, as to a recogniser's references, and empty ones are
            left out.
        order: words in the longest n-grams.
        prune: n-grams of order 1, 2, ... seen at most so often are dropped; the last value is for all higher orders.

    Raises:
        ValueError: `order` or `prune` is out of range, or the texts hold no word.
    """
    words, counts = count_ngrams(texts, order=order)
    return interpolate(words, counts, estimate_discounts(counts), prune=prune)


def count_ngrams(texts: Iterable[str], *, order: int) -> tuple[list[str], list[Counts]]:
    """Texts as for `train_kneser_ney` -> vocabulary, and the counts of orders 1 to `order`.

    Raises:
        ValueError: `order` is out of range or longer than any text with its <s> and </s>, or the texts hold no word.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"`order` must be 1 to {MAX_ORDER}, got {order}.")
    words, tokens, places = _number_words(texts)
    if len(tokens) == 0:
        raise ValueError("`texts` must hold at least one word, got none.")
    longest = places.max() + 1
    if order > longest:
        raise ValueError(
            f"`order` must be at most {longest}, the length of the longest text with its ends, got {order}."
        )
    vocab_size = len(words)
    seen = np.bincount(tokens[places > 0], minlength=vocab_size)
    counts = [Counts(np.arange(vocab_size), np.zeros_like(seen), np.zeros_like(seen), seen, seen)]
    rows = tokens  # row of the n-gram that ends at each token; of no meaning where less than n tokens have come
    for length in range(2, order + 1):
        ends = np.flatnonzero(places >= length - 1)
        keys, firsts, rows_of_ends, seen = np.unique(
            rows[ends - 1] * vocab_size + tokens[ends], return_index=True, return_inverse=True, return_counts=True
        )
        suffixes = rows[ends[firsts]]
        words_before = np.bincount(suffixes, minlength=len(counts[-1].seen))  # none before what begins with <s>
        counts[-1] = counts[-1]._replace(adjusted=np.where(words_before > 0, words_before, counts[-1].seen))
        counts.append(Counts(keys % vocab_size, keys // vocab_size, suffixes, seen, seen))
        rows = np.zeros_like(tokens)
        rows[ends] = rows_of_ends
    return words, counts


def estimate_discounts(counts: Sequence[Counts]) -> list[Discounts]:
    """For each order, by Chen and Goodman's equation 26; `FALLBACK_DISCOUNTS` where it cannot be used, with a warning.

    It cannot where no n-gram has an adjusted count of 1, 2 or 3, or a discount is not in (0, count], as happens with
    small texts and closed vocabularies.
    """
    discounts = []
    for level in counts:
        _, n1, n2, n3, n4 = np.bincount(np.minimum(level.adjusted, 5), minlength=6)[:5].tolist()
        values = (0.0, 0.0, 0.0)
        if n1 and n2 and n3:
            y = n1 / (n1 + 2 * n2)
            values = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        is_estimated = min(values) > 0
        discounts.append(Discounts(*(values if is_estimated else FALLBACK_DISCOUNTS), is_estimated))
    if failed := [str(order) for order, discount in enumerate(discounts, start=1) if not discount.is_estimated]:
        _log.warning(
            "the text is too small or too regular to estimate the discounts of order %s: %g, %g and %g are taken",
            *(", ".join(failed), *FALLBACK_DISCOUNTS),
        )
    return discounts


def interpolate(
    words: Sequence[str], counts: Sequence[Counts], discounts: Sequence[Discounts], *, prune: Sequence[int] = (0,)
) -> NGram:
    """Vocabulary, counts and discounts of each order -> the model; `prune` as for `train_kneser_ney`.

    Raises:
        ValueError: `prune` is out of range.
    """
    _check_prune(prune, len(counts))
    thresholds = [*prune, *[prune[-1]] * (len(counts) - len(prune))]
    ids, probs = np.zeros((1, 0), np.int32), np.array([1 / (len(words) - 1)])  # the empty n-gram; <s> is not predicted
    levels: list[Level] = []
    kept = []
    for level, discount, threshold in zip(counts, discounts, thresholds, strict=True):
        is_kept = (level.seen > threshold) | (not levels)  # <unk> and <s> were never seen
        taken = np.where(is_kept, np.array([0.0, *discount[:3]])[np.minimum(level.adjusted, 3)], level.adjusted)
        totals = np.bincount(level.prefixes, level.adjusted, minlength=len(ids))
        gammas = np.bincount(level.prefixes, taken, minlength=len(ids))
        np.divide(gammas, totals, out=gammas, where=totals > 0)
        if levels:
            levels[-1] = levels[-1]._replace(backoffs=np.log(np.where(totals > 0, gammas, 1.0)))
        probs = (level.adjusted - taken) / totals[level.prefixes] + gammas[level.prefixes] * probs[level.suffixes]
        if not levels:
            probs[words.index(BEGIN)] = 1.0  # as `lmplz` writes it
        ids = np.column_stack([ids[level.prefixes], level.words]).astype(np.int32)
        levels.append(Level(ids, np.minimum(np.log(probs), 0.0), np.zeros(len(ids))))
        kept.append(is_kept)
    return NGram(words, [Level(*(column[rows] for column in level)) for level, rows in zip(levels, kept, strict=True)])


def _number_words(texts: Iterable[str]) -> tuple[list[str], NDArray[Any], NDArray[Any]]:
    """The vocabulary; the ids of all sentences with <s> and </s>, end to end; the place of each in its sentence."""
    word_ids = {UNKNOWN: 0, BEGIN: 1, END: 2}
    tokens, places = array("q"), array("i")
    for text in texts:
        if words := normalize_text(text).split():
            tokens.extend([1, *[word_ids.setdefault(word, len(word_ids)) for word in words], 2])
            places.extend(range(len(words) + 2))
    return list(word_ids), np.array(tokens), np.array(places)


def _check_prune(prune: Sequence[int], order: int) -> None:
    if not 1 <= len(prune) <= order:
        raise ValueError(f"`prune` must have 1 to {order} values, one for each order, got {len(prune)}.")
    if prune[0] != 0 or list(prune) != sorted(prune):
        raise ValueError(f"`prune` must begin with 0 and not fall, got {' '.join(map(str, prune))}.")
