"""Modified Kneser-Ney against the published formulas in exact fractions, worked by hand, and against `lmplz`.

lmplz/*.arpa were written by `lmplz` of KenLM 0.3.0 from lmplz/rhymes.txt with `-o 3 --discount_fallback` and
`-o 4 --prune 0 0 1 --discount_fallback`.
"""

import logging
import math
import random
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from speechkit.decoding import NGram, read_arpa, train_kneser_ney
from speechkit.decoding.kneser_ney import count_ngrams, estimate_discounts

LMPLZ = Path(__file__).parent / "lmplz"
RHYMES = (LMPLZ / "rhymes.txt").read_text().splitlines()
Words = tuple[str, ...]


def entries(ngram: NGram) -> dict[Words, tuple[float, float]]:
    """n-gram -> log10 of its probability and of its weight."""
    return {
        tuple(ngram.words[i] for i in ids): (log_prob / math.log(10), backoff / math.log(10))
        for level in ngram.levels()
        for ids, log_prob, backoff in zip(level.ids, level.log_probs, level.backoffs, strict=True)
    }


def probability(ngram: NGram, history: Words, word: str) -> float:
    return math.exp(ngram.score([*history, word], begin=False, end=False)[-1])


class Formulas:
    """Chen and Goodman (1998), section 3, one probability at a time and in exact fractions."""

    def __init__(self, texts: list[str], order: int) -> None:
        self.seen: Counter[Words] = Counter()
        for text in texts:
            words = ("<s>", *text.split(), "</s>")
            for length in range(1, order + 1):
                self.seen.update(words[end - length : end] for end in range(length, len(words) + 1))
        del self.seen[("<s>",)]
        self.words = sorted({ngram[-1] for ngram in self.seen} | {"<unk>"})
        self.order = order

    def count(self, ngram: Words) -> int:
        if len(ngram) == self.order or ngram[0] == "<s>":
            return self.seen[ngram]
        return sum(longer[1:] == ngram for longer in self.seen)

    def discount(self, count: int, order: int) -> Fraction:
        n = Counter(self.count(ngram) for ngram in self.seen if len(ngram) == order)
        if n[1] * n[2] * n[3]:
            values = [k - (k + 1) * Fraction(n[1], n[1] + 2 * n[2]) * Fraction(n[k + 1], n[k]) for k in (1, 2, 3)]
            if min(values) > 0:
                return values[min(count, 3) - 1]
        return Fraction(min(count, 3), 2)

    def probability(self, history: Words, word: str) -> Fraction:
        counts = {ngram: self.count(ngram) for ngram in self.seen if ngram[:-1] == history}
        shorter = self.probability(history[1:], word) if history else Fraction(1, len(self.words))
        if not counts:
            return shorter
        discounts = {ngram: self.discount(count, len(ngram)) for ngram, count in counts.items()}
        gamma = Fraction(sum(discounts.values()), sum(counts.values()))
        ngram = (*history, word)
        return Fraction(counts.get(ngram, 0) - discounts.get(ngram, 0), sum(counts.values())) + gamma * shorter


def random_texts(seed: int, count: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices("abcdef", [9, 5, 3, 2, 1, 1], k=generator.randint(1, 6))) for _ in range(count)]


def test_small_text_worked_by_hand() -> None:
    """Discounts 1/2, 1, 3/2. Words before a: <s>; b: a; </s>: a, b. gamma() = (1/2 + 1/2 + 1) / 4, over 4 words."""
    ngram = train_kneser_ney(["a b", "a"], order=2)
    expected = {
        ("<unk>",): (1 / 8, 1),  # 1/2 * 1/4
        ("<s>",): (1, 1 / 2),
        ("a",): (1 / 4, 1 / 2),  # (1 - 1/2) / 4 + 1/8
        ("b",): (1 / 4, 1 / 2),
        ("</s>",): (3 / 8, 1),  # (2 - 1) / 4 + 1/8
        ("<s>", "a"): (5 / 8, 1),  # (2 - 1) / 2 + 1/2 * 1/4
        ("a", "b"): (3 / 8, 1),  # (1 - 1/2) / 2 + 1/2 * 1/4
        ("a", "</s>"): (7 / 16, 1),  # (1 - 1/2) / 2 + 1/2 * 3/8
        ("b", "</s>"): (11 / 16, 1),  # (1 - 1/2) / 1 + 1/2 * 3/8
    }
    found = entries(ngram)
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx([math.log10(value) for value in expected[key]]) for key in expected)


def test_perplexity_worked_by_hand() -> None:
    """p(a b </s>) = 5/8 * 3/8 * 11/16; p(a x </s>) = 5/8 * (1/2 * 1/8) * 3/8, where x is unknown."""
    result = train_kneser_ney(["a b", "a"], order=2).perplexity(["a b", "a x"])
    known = 5 / 8 * 3 / 8 * 11 / 16 * 5 / 8 * 3 / 8
    assert result == pytest.approx(((known / 16) ** (-1 / 6), known ** (-1 / 5), 6, 1))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(("seed", "count"), [(0, 6), (1, 40)])
def test_probabilities_are_those_of_the_formulas(order: int, seed: int, count: int) -> None:
    texts = random_texts(seed, count)
    ngram, formulas = train_kneser_ney(texts, order=order), Formulas(texts, order)
    histories = [tuple(text.split())[: order - 1] for text in texts[:3]] + [("<s>", "b")[: order - 1], ("e", "f")[:0]]
    for history, word in product(histories, ["a", "e", "f", "</s>", "<unk>"]):
        if word in formulas.words:
            assert probability(ngram, history, word) == pytest.approx(float(formulas.probability(history, word)))


@pytest.mark.parametrize(("file", "order", "prune"), [("order3.arpa", 3, [0]), ("order4_pruned.arpa", 4, [0, 0, 1])])
def test_ngrams_are_those_of_lmplz(file: str, order: int, prune: list[int]) -> None:
    ours, theirs = entries(train_kneser_ney(RHYMES, order=order, prune=prune)), entries(read_arpa(LMPLZ / file))
    assert ours.keys() == theirs.keys()
    assert all(ours[key] == pytest.approx(theirs[key], abs=1e-6) for key in theirs)


def test_perplexity_is_that_of_kenlms_query() -> None:
    texts = ["peter piper bought some butter", "betty picked a peck of clubs", "row the ship"]
    printed = (23.108062245211382, 16.132339748827796, 17, 2)  # `query -v summary lmplz/order3.arpa`
    assert read_arpa(LMPLZ / "order3.arpa").perplexity(texts) == pytest.approx(printed, rel=1e-6)
    assert train_kneser_ney(RHYMES, order=3).perplexity(texts) == pytest.approx(printed, rel=1e-6)


@pytest.mark.parametrize(("order", "prune"), [(1, [0]), (2, [0]), (3, [0]), (3, [0, 1, 2]), (5, [0, 0, 1])])
def test_probabilities_after_a_history_sum_to_1(order: int, prune: list[int]) -> None:
    ngram = train_kneser_ney(RHYMES, order=order, prune=prune)
    words = [word for word in ngram.words if word != "<s>"]
    for history in [(), ("the",), ("pickled", "peppers"), ("never", "seen"), ("a", "peck", "of", "pickled")]:
        assert sum(probability(ngram, history, word) for word in words) == pytest.approx(1.0, abs=1e-5)


def test_pruning_drops_what_was_seen_seldom() -> None:
    full, pruned = (entries(train_kneser_ney(RHYMES, prune=prune)) for prune in ([0], [0, 0, 2]))
    dropped = full.keys() - pruned.keys()
    assert {len(ngram) for ngram in dropped} == {3}
    assert ("of", "pickled", "peppers") in pruned
    assert ("how", "much", "wood") in dropped


def test_texts_are_normalised_and_empty_ones_left_out() -> None:
    one, other = train_kneser_ney(["A, b!", "", "...", "a"]), train_kneser_ney(["a b", "a"])
    assert one.words == other.words
    assert all(map(np.array_equal, one.tables, other.tables))


def test_discounts_worked_by_hand() -> None:
    """2 words are seen once, and one each 2, 3 and 4 times: Y = 2 / (2 + 2), D = 1 - 2 Y / 2, 2 - 3 Y, 3 - 4 Y."""
    _, counts = count_ngrams(["a b c c d d d e e e e", "f f f f f", "f", "f", "f"], order=1)
    assert estimate_discounts(counts) == [(0.5, 0.5, 1.0, True)]


def test_closed_vocabulary_falls_back_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ngram = train_kneser_ney(["zero", "one", "two"] * 100)
    (message,) = caplog.messages
    assert message.endswith("to estimate the discounts of order 1, 2, 3: 0.5, 1 and 1.5 are taken")
    assert probability(ngram, ("<s>",), "two") == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "`texts` must hold at least one word, got none"),
        (["", "?"], {}, "`texts` must hold at least one word, got none"),
        (["a"], {"order": 0}, "`order` must be 1 to 6, got 0"),
        (["a"], {"order": 7}, "`order` must be 1 to 6, got 7"),
        (["a", "a b"], {"order": 5}, "`order` must be at most 4, the length of the longest text with its ends, got 5"),
        (["a"], {"prune": [1]}, "`prune` must begin with 0 and not fall, got 1"),
        (["a"], {"prune": [0, 2, 1]}, "`prune` must begin with 0 and not fall, got 0 2 1"),
        (["a"], {"prune": []}, "`prune` must have 1 to 3 values, one for each order, got 0"),
        (["a"], {"prune": [0, 0, 0, 0]}, "`prune` must have 1 to 3 values, one for each order, got 4"),
    ],
)
def test_wrong_input_is_refused(texts: list[str], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_kneser_ney(texts, **options)
