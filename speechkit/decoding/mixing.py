"""Linear mixtures of n-gram language models: one for what is said here, one for the language at large.

With weights that sum to 1, and p_i(w | h) = 0 for a word that model i does not have,

    p(w | h) = sum_i weight_i p_i(w | h)

for every n-gram h w of any of the models. What else can follow a history shares what these leave, in proportion to the
mixture of the history one word shorter, which is the rule of a back-off model: the mixture is one again, as large as
its parts together and no slower to ask (SRILM's "static" interpolation: Stolcke 2002). The weights that suit a text are
found by expectation maximisation (Jelinek and Mercer 1980).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.decoding.ngram import BEGIN, UNKNOWN, Level, NGram, NGramTables, advance, kernel

_ABSENT = -1  # the id of a word that a model does not have
_LEAST_MASS = 1e-6  # of what a mixture leaves to words that follow a history in none of its models


def mix_ngrams(models: Sequence[NGram], weights: Sequence[float]) -> NGram:
    """Mixes language models; n-grams of the highest order that any of them has.

    A model in capitals, or written otherwise than transcripts are, goes by the normal forms of its words where no two
    of them are the same.

    Args:
        models: at least one.
        weights: of each, not negative, summing to 1.

    Raises:
        ValueError: no models, another number of weights, or weights out of range.
    """
    if not models or len(weights) != len(models):
        raise ValueError(f"`weights` must be one for each model, got {len(weights)} for {len(models)} models.")
    if min(weights) < 0.0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"`weights` must not be negative and must sum to 1, got {', '.join(map(str, weights))}.")
    models = [_in_normal_form(model) for model in models]
    words = list(dict.fromkeys([UNKNOWN, *(word for model in models for word in model.words)]))
    word_ids = {word: place for place, word in enumerate(words)}
    theirs = [_translation(words, model) for model in models]
    levels: list[Level] = []
    for order in range(1, max(model.order for model in models) + 1):
        ids = _union(models, word_ids, order)
        probs = np.zeros(len(ids))
        for model, weight, translation in zip(models, weights, theirs, strict=True):
            probs += weight * np.exp(_log_probs(model, translation, ids))
        if levels:
            levels[-1] = levels[-1]._replace(backoffs=_backoffs(NGram(words, levels), ids, probs, levels[-1].ids))
        else:
            probs[word_ids[BEGIN]] = 1.0  # which nothing predicts
        log_probs = np.log(np.maximum(probs, np.finfo(np.float64).tiny))
        levels.append(Level(ids, np.minimum(log_probs, 0.0), np.zeros(len(ids))))
    return NGram(words, levels)


def mixture_weights(models: Sequence[NGram], texts: Iterable[str], *, num_rounds: int = 100) -> list[float]:
    """The weights with which a mixture predicts some texts best, words that none of the models has left out.

    Args:
        models: at least one.
        texts: sentences, normalised.
        num_rounds: of expectation maximisation, from equal weights.

    Raises:
        ValueError: no models, or no word of the texts is in any of them.
    """
    sentences = [text.split() for text in texts]
    columns = []
    for model in models:
        rows = []
        for words in sentences:
            log_probs = np.array(model.score(words))
            known = [model.find(word) != model.unknown_id for word in words] + [True]
            rows.append(np.where(known, np.exp(log_probs), 0.0))
        columns.append(np.concatenate(rows) if rows else np.zeros(0))
    if not columns:
        raise ValueError("`models` must hold at least one, got none.")
    probs = np.stack(columns, axis=1)
    probs = probs[probs.max(axis=1) > 0.0]
    if not any(model.find(word) != model.unknown_id for model in models for words in sentences for word in words):
        raise ValueError("`texts` must hold words that one of the models has, got none.")
    weights = np.full(len(models), 1.0 / len(models))
    for _ in range(num_rounds):
        shares = weights * probs
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return [float(weight) for weight in weights / weights.sum()]


def _in_normal_form(model: NGram) -> NGram:
    forms = {word_id: form for form, word_id in model.normalized_ids.items()}
    words = [forms.get(word_id, word) for word_id, word in enumerate(model.words)]
    return NGram(words, list(model.levels())) if words != model.words and len(set(words)) == len(words) else model


def _translation(words: Sequence[str], model: NGram) -> NDArray[Any]:
    """Ids of the mixture -> ids of one of its models."""
    return np.array([model.word_ids.get(word, _ABSENT) for word in words], np.int32)


def _union(models: Sequence[NGram], word_ids: dict[str, int], order: int) -> NDArray[Any]:
    """The n-grams of one order that any of the models has, (M, order) int32, each once."""
    found = [np.arange(len(word_ids), dtype=np.int32)[:, None]] if order == 1 else []
    for model in models:
        if 1 < order <= model.order:
            ours = np.array([word_ids[word] for word in model.words], np.int32)
            level = next(level for place, level in enumerate(model.levels(), start=1) if place == order)
            found.append(ours[level.ids])
    return np.unique(np.concatenate(found), axis=0)


def _log_probs(model: NGram, translation: NDArray[Any], ids: NDArray[Any]) -> NDArray[np.float64]:
    """log p(last word | words before it) by one of the models, -inf for a word that it does not have."""
    theirs = translation[ids]
    is_absent = theirs[:, -1] == _ABSENT
    log_probs = np.empty(len(ids))
    _score_rows(model.tables, np.where(theirs == _ABSENT, model.unknown_id, theirs), log_probs)
    log_probs[is_absent] = -np.inf
    return log_probs


@kernel
def _score_rows(tables: NGramTables, ids: NDArray[Any], log_probs: NDArray[Any]) -> None:
    for row in range(ids.shape[0]):
        state = 0
        for place in range(ids.shape[1]):
            log_probs[row], state = advance(tables, state, ids[row, place])


def _backoffs(
    shorter: NGram, ids: NDArray[Any], probs: NDArray[np.float64], histories: NDArray[Any]
) -> NDArray[np.float64]:
    """log of the weights with which what follows the histories sums to 1.

    Args:
        shorter: the mixture's n-grams of lower orders.
        ids: the n-grams of this order.
        probs: p(last word | history) of each.
        histories: the n-grams one word shorter, in the order of their ids.
    """
    rows = _find_rows(histories, ids[:, :-1])
    lower = np.empty(len(ids))
    _score_rows(shorter.tables, np.ascontiguousarray(ids[:, 1:]), lower)
    left = 1.0 - np.bincount(rows, probs, minlength=len(histories))
    lower_left = 1.0 - np.bincount(rows, np.exp(lower), minlength=len(histories))
    weights = np.maximum(left, _LEAST_MASS) / np.maximum(lower_left, _LEAST_MASS)
    return np.where(np.bincount(rows, minlength=len(histories)) > 0, np.log(weights), 0.0)


def _find_rows(histories: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    """Where rows stand among others, which hold them all and are sorted."""
    both, places = np.unique(np.concatenate([histories, wanted]), axis=0, return_inverse=True)
    assert len(both) == len(histories), "the first n - 1 words of an n-gram are one too"
    return places.ravel()[len(histories) :]
