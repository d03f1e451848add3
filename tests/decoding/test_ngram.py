"""The compiled walk over a back-off model against the definition in plain Python, and what states mean."""

import itertools
import math
import random

import numpy as np
import pytest

from speechkit.decoding import NGram
from speechkit.decoding.ngram import UNSEEN_LOG_PROB, EntryError, Level, advance, find_child

Words = tuple[str, ...]
Model = dict[Words, tuple[float, float]]  # n-gram -> log-probability of its last word, log back-off weight as a context
VOCABULARY = ["<unk>", "<s>", "</s>", "a", "b", "c"]


def back_off(model: Model, history: Words, word: str) -> float:
    """log p(word | history) by definition (Katz 1987)."""
    if (*history, word) in model:
        return model[(*history, word)][0]
    weight = model[history][1] if history in model else 0.0
    return weight + back_off(model, history[1:], word)


def random_model(order: int, seed: int) -> Model:
    """Every n-gram's beginning is an n-gram; its end need not be one, and half of the weights are 0."""
    generator = random.Random(seed)
    model: Model = {(word,): (0.0, 0.0) for word in VOCABULARY}
    for length in range(2, order + 1):
        for context in [ngram for ngram in model if len(ngram) == length - 1]:
            for word in generator.sample(VOCABULARY[2:], k=generator.choice([0, 0, 1, 3])):
                model[(*context, word)] = (0.0, 0.0)
    return {
        ngram: (-generator.uniform(0, 9), generator.choice([0.0, generator.gauss(0, 2)]) * (len(ngram) < order))
        for ngram in model
    }


def build(model: Model, words: list[str] = VOCABULARY) -> NGram:
    levels = []
    for length in range(1, 1 + max(map(len, model))):
        ngrams = [ngram for ngram in model if len(ngram) == length]
        ids = np.array([[words.index(word) for word in ngram] for ngram in ngrams], np.int32).reshape(-1, length)
        levels.append(Level(ids, *np.array([model[ngram] for ngram in ngrams]).reshape(-1, 2).T))
    return NGram(words, levels)


def state_after(ngram: NGram, words: Words) -> int:
    state = 0
    for word in words:
        state = int(advance(ngram.tables, state, ngram.word_ids[word])[1])
    return state


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_definition(order: int, seed: int) -> None:
    model, generator = random_model(order, seed), random.Random(seed)
    ngram = build(model)
    for _ in range(20):
        words = tuple(generator.choices(["a", "b", "c", "x"], k=generator.randint(0, 9)))
        known = ("<s>", *("<unk>" if word == "x" else word for word in words), "</s>")
        expected = [back_off(model, known[:place], known[place]) for place in range(1, len(known))]
        assert ngram.score(words) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("seed", range(4))
def test_histories_of_one_state_have_one_future(order: int, seed: int) -> None:
    model = random_model(order, seed)
    ngram = build(model)
    futures: dict[int, list[float]] = {}
    for history in itertools.product("abc", repeat=4):
        future = [
            back_off(model, history, first) + back_off(model, (*history, first), second)
            for first, second in itertools.product(VOCABULARY, repeat=2)
        ]
        assert futures.setdefault(state_after(ngram, history), future) == pytest.approx(future, abs=1e-9)
    assert len(futures) < 3**4, "some histories share a state"


def test_state_is_no_longer_than_what_can_matter() -> None:
    model: Model = {(word,): (-1.0, 0.0) for word in VOCABULARY} | {("a", "b"): (-2.0, 0.0), ("a", "b", "c"): (-3.0, 0)}
    ngram = build(model)
    assert state_after(ngram, ("b",)) == state_after(ngram, ("c", "b")) == 0
    assert state_after(ngram, ("a", "b", "c")) == 0
    assert state_after(ngram, ("c", "a")) == state_after(ngram, ("a", "a")) == state_after(ngram, ("a",)) != 0
    assert state_after(ngram, ("a", "b")) not in (0, state_after(ngram, ("a",)))


def test_weight_of_a_context_that_nothing_extends_counts() -> None:
    ngram = build({(word,): (-1.0, -0.5 if word == "a" else 0.0) for word in VOCABULARY} | {("b", "c"): (-2.0, 0.0)})
    assert ngram.score(["a", "b"], end=False) == pytest.approx([-1.0, -1.5])


def test_end_of_an_ngram_may_be_missing() -> None:
    model: Model = {(word,): (-1.0, -0.25) for word in VOCABULARY}
    model |= {("a", "b"): (-2.0, -0.5), ("a", "b", "c"): (-3.0, 0.0)}  # and no "b c"
    assert build(model).score(["a", "b", "c", "a"], begin=False, end=False) == pytest.approx([-1.0, -2.0, -3.0, -1.25])


def test_ends_of_the_sentence_are_options() -> None:
    ngram = build({(word,): (-1.0, 0.0) for word in VOCABULARY} | {("<s>", "a"): (-0.5, 0.0), ("a", "</s>"): (-0.1, 0)})
    assert ngram.score(["a"]) == pytest.approx([-0.5, -0.1])
    assert ngram.score(["a"], begin=False, end=False) == [-1.0]
    assert ngram.score([], end=False) == []


def test_unknown_words_score_as_unk_and_are_forgotten() -> None:
    model: Model = {(word,): (-1.0 - place, -0.125) for place, word in enumerate(VOCABULARY)} | {("a", "b"): (-9.0, 0)}
    ngram = build({key: (value[0], 0.0 if key == ("<unk>",) else value[1]) for key, value in model.items()})
    assert ngram.score(["a", "zebra", "b"], begin=False, end=False) == pytest.approx([-4.0, -0.125 - 1.0, -5.0])


def test_model_without_unk_has_it_as_kenlm_has() -> None:
    ngram = build({(word,): (-1.0, 0.0) for word in VOCABULARY[1:]}, VOCABULARY[1:])
    assert ngram.words[ngram.unknown_id] == "<unk>"
    assert ngram.score(["zebra"], end=False) == pytest.approx([-230.2585], abs=1e-4) == [pytest.approx(UNSEEN_LOG_PROB)]


@pytest.mark.parametrize("missing", ["<s>", "</s>"])
def test_sentence_markers_are_needed(missing: str) -> None:
    words = [word for word in VOCABULARY if word != missing]
    with pytest.raises(ValueError, match=f"`words` must hold {missing}, got 5 words"):
        build({(word,): (-1.0, 0.0) for word in words}, words)


def test_ngram_needs_its_beginning() -> None:
    with pytest.raises(EntryError, match="first n - 1 words must be an n-gram too, got row 0 of the 3-grams"):
        build({(word,): (-1.0, 0.0) for word in VOCABULARY} | {("b", "c"): (-1.0, 0), ("a", "b", "c"): (-1.0, 0.0)})


def test_ngram_stands_there_once() -> None:
    level = Level(np.arange(6, dtype=np.int32)[:, None] % 5, np.zeros(6), np.zeros(6))
    with pytest.raises(EntryError, match="once, got row 5 of the 1-grams"):
        NGram(VOCABULARY, [level])


@pytest.mark.parametrize("order", [1, 3])
def test_levels_are_what_was_given(order: int) -> None:
    model = random_model(order, 0)
    ngram = build(model)
    found = {
        tuple(ngram.words[i] for i in ids): (log_prob, backoff)
        for level in ngram.levels()
        for ids, log_prob, backoff in zip(level.ids, level.log_probs, level.backoffs, strict=True)
    }
    assert list(found) == sorted(model, key=len)
    assert all(found[key] == pytest.approx(model[key]) for key in model)


def test_hash_table_finds_every_node_and_no_other() -> None:
    words = ["<unk>", "<s>", "</s>", *map(str, range(997))]
    pairs = np.random.default_rng(0).choice(1_000_000, 20_000, replace=False)
    unigrams = Level(np.arange(1000, dtype=np.int32)[:, None], np.zeros(1000), np.zeros(1000))
    bigrams = Level(np.stack([pairs // 1000, pairs % 1000], 1).astype(np.int32), np.zeros(20_000), np.zeros(20_000))
    tables = NGram(words, [unigrams, bigrams]).tables
    found = {pair: find_child(tables.keys, tables.children, 1 + pair // 1000, pair % 1000) for pair in range(100_000)}
    nodes = {pair: 1001 + row for row, pair in enumerate(pairs.tolist())}
    assert found == {pair: nodes.get(pair, -1) for pair in range(100_000)}


def test_perplexity_is_kenlms() -> None:
    ngram = build({(word,): (math.log(0.5) if word == "a" else math.log(0.125), 0.0) for word in VOCABULARY})
    result = ngram.perplexity(["a a", "zebra a"])
    assert result[2:] == (6, 1)
    assert result.including_unknown == pytest.approx((2**3 * 8**3) ** (1 / 6))
    assert result.excluding_unknown == pytest.approx((2**3 * 8**2) ** (1 / 5))


def test_perplexity_of_nothing_is_not_a_number() -> None:
    assert math.isnan(build({(word,): (-1.0, 0.0) for word in VOCABULARY}).perplexity([]).including_unknown)


def test_text_is_not_a_sequence_of_words() -> None:
    with pytest.raises(ValueError, match="`words` must be a sequence of words, got the string 'a b'"):
        build({(word,): (-1.0, 0.0) for word in VOCABULARY}).score("a b")
