"""Mixtures of language models against the sum they stand for, word by word."""

import math
import random

import pytest

from speechkit.decoding import NGram, mix_ngrams, mixture_weights, read_arpa, train_kneser_ney, write_arpa

HERE = ["one two three", "two three", "three two one one", "two one", "one two two three", "three three one"]
AT_LARGE = ["one man and two dogs", "the dogs and the man", "a man bit two dogs", "the two bit one", "dogs and a man"]


def make(texts: list[str], order: int = 3) -> NGram:
    return train_kneser_ney(texts, order=order)


def probability(model: NGram, history: list[str], word: str, *, closed: bool = False) -> float:
    if closed and word not in model.word_ids:
        return 0.0
    return math.exp(model.score([*history, word], begin=False, end=False)[-1])


@pytest.fixture(scope="module")
def models() -> list[NGram]:
    return [make(HERE), make(AT_LARGE, order=2)]


def test_ngrams_have_the_weighted_mean_of_their_probabilities(models: list[NGram]) -> None:
    mixture = mix_ngrams(models, [0.7, 0.3])
    num_checked = 0
    for level in mixture.levels():
        for ids in level.ids.tolist():
            *history, word = (mixture.words[i] for i in ids)
            if word == "<s>":
                continue
            expected = sum(
                weight * probability(model, history, word, closed=True)
                for model, weight in zip(models, (0.7, 0.3), strict=True)
            )
            assert probability(mixture, history, word) == pytest.approx(expected, rel=1e-5)
            num_checked += 1
    assert num_checked > 50


def test_what_follows_any_history_sums_to_one(models: list[NGram]) -> None:
    mixture = mix_ngrams(models, [0.4, 0.6])
    random.seed(1)
    words = [word for word in mixture.words if word != "<s>"]
    histories = [[], ["<s>"], ["<s>", "one"], *([random.choice(words), random.choice(words)] for _ in range(40))]
    for history in histories:
        assert sum(probability(mixture, history, word) for word in words) == pytest.approx(1.0, abs=1e-5)


def test_a_weight_of_one_gives_that_model(models: list[NGram], tmp_path) -> None:
    mixture = mix_ngrams(models, [1.0, 0.0])
    texts = [*HERE, "one three two", "two two"]
    assert mixture.perplexity(texts).including_unknown == pytest.approx(
        models[0].perplexity(texts).including_unknown, rel=1e-4
    )
    write_arpa(mixture, tmp_path / "mixture.arpa")
    again = read_arpa(tmp_path / "mixture.arpa")
    assert again.perplexity(texts).including_unknown == pytest.approx(mixture.perplexity(texts).including_unknown)


def test_weights_found_are_the_best_of_a_grid(models: list[NGram]) -> None:
    texts = ["one two dogs", "two three", "the man", "one two three"]
    found = mixture_weights(models, texts)
    assert sum(found) == pytest.approx(1.0)

    def loss(weight: float) -> float:
        return -sum(
            math.log(sum(w * p for w, p in zip((weight, 1 - weight), column, strict=True)))
            for text in texts
            for column in zip(
                *(
                    [
                        math.exp(value) if word in model.word_ids else 0.0
                        for value, word in zip(model.score(text.split()), [*text.split(), "</s>"], strict=True)
                    ]
                    for model in models
                ),
                strict=True,
            )
        )

    best = min((place / 1000 for place in range(1, 1000)), key=loss)
    assert found[0] == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "`weights` must be one for each model, got 1 for 2 models"),
        ([0.5, 0.6], "`weights` must not be negative and must sum to 1, got 0.5, 0.6"),
        ([-0.5, 1.5], "`weights` must not be negative and must sum to 1, got -0.5, 1.5"),
    ],
)
def test_bad_weights(models: list[NGram], weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix_ngrams(models, weights)


def test_no_words_in_common(models: list[NGram]) -> None:
    with pytest.raises(ValueError, match="`texts` must hold words that one of the models has, got none"):
        mixture_weights(models, ["xyzzy"])
