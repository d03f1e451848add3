"""The readable search with a beam that drops nothing, against the sum over all alignments of every text."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from beam_cases import SENTENCES, TOKENIZERS, label_texts
from numpy.typing import NDArray

from speechkit.decoding import train_kneser_ney
from speechkit.decoding.lexicon import KnownWord
from speechkit.decoding.prefix_beam_reference import TextScore, prefix_beam_search
from speechkit.text import CharTokenizer, Tokenizer, WordTokenizer

MODEL = train_kneser_ney(SENTENCES, order=3)
KNOWN = {word: [KnownWord(word, place)] for word, place in MODEL.word_ids.items() if word.isalpha()}
SCORES = {
    "acoustic": TextScore(),
    "words": TextScore(word_bonus=0.7),
    "language model": TextScore(words=KNOWN, language_model=MODEL, lm_weight=0.8, unknown_penalty=0.4),
    "going on": TextScore(words=KNOWN, language_model=MODEL, lm_weight=0.8, sentence_end=False),
    "lexicon": TextScore(words={word: [KnownWord(word, 0)] for word in ("ab", "b")}, closed=True),
    "both": TextScore(words={word: KNOWN[word] for word in ("ab", "b")}, closed=True, language_model=MODEL),
    "hotwords": TextScore(hotwords={"ab": 1.5, "b ab": 0.5, "b": 0.25}),
}


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def sum_over_alignments(log_probs: NDArray[np.float64], tokenizer: Tokenizer) -> dict[str, float]:
    """Text -> log of the summed probability of all paths that decode to it."""
    totals: dict[str, float] = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = tokenizer.decode([label for label, _ in itertools.groupby(path) if label])
        totals[text] = float(np.logaddexp(totals[text], log_probs[range(len(path)), path].sum()))
    return totals


def score_by_definition(text: str, score: TextScore) -> float:
    words = text.split()
    if score.closed and not {*words} <= score.words.keys():
        return -math.inf
    total = score.word_bonus * len(words)
    for phrase, boost in score.hotwords.items():
        parts = phrase.split()
        starts = [start for start in range(len(words)) if words[start : start + len(parts)] == parts]
        total += boost * len(parts) * len(starts)
    if score.language_model is not None:
        total += score.lm_weight * sum(score.language_model.score(words, end=score.sentence_end))
        total -= score.unknown_penalty * sum(word not in score.language_model.word_ids for word in words)
    return total


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(("tokenizer", "num_frames"), [(CharTokenizer(" ab"), 5), (WordTokenizer(["ab", "b", "c"]), 5)])
def test_without_pruning_every_text_has_its_score_by_definition(
    tokenizer: Tokenizer, num_frames: int, name: str
) -> None:
    log_probs = log_softmax(np.random.default_rng(0).normal(0.0, 1.5, (num_frames, tokenizer.vocab_size)))
    found = prefix_beam_search(log_probs, label_texts(tokenizer), SCORES[name], beam_size=10**6)
    totals = sum_over_alignments(log_probs, tokenizer)
    expected = {text: total + score_by_definition(text, SCORES[name]) for text, total in totals.items()}
    expected = {text: total for text, total in expected.items() if total > -math.inf}
    assert {tokenizer.decode(hypothesis.labels): hypothesis.score for hypothesis in found} == pytest.approx(expected)
    assert [hypothesis.score for hypothesis in found] == pytest.approx(sorted(expected.values(), reverse=True))


def test_all_spellings_of_a_text_by_pieces_have_its_probability() -> None:
    tokenizer = TOKENIZERS["pieces"]
    log_probs = log_softmax(np.random.default_rng(1).normal(0.0, 1.5, (3, tokenizer.vocab_size)))
    log_probs[:, 1] = -math.inf  # the unknown piece stands for no text and is not searched
    found = prefix_beam_search(log_probs, label_texts(tokenizer), TextScore(), beam_size=10**6)
    totals: dict[str, float] = defaultdict(lambda: -math.inf)
    for hypothesis in found:
        text = tokenizer.decode(hypothesis.labels)
        totals[text] = float(np.logaddexp(totals[text], hypothesis.score))
    expected = sum_over_alignments(log_probs, tokenizer)
    assert totals == pytest.approx({text: total for text, total in expected.items() if total > -math.inf})
    assert len({tuple(hypothesis.labels) for hypothesis in found}) == len(found) > len(totals)
