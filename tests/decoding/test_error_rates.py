"""Error rates against jiwer, and the bootstrap interval."""

import random

import jiwer
import pytest

from speechkit.decoding import ErrorCounts, bootstrap_interval, count_errors, error_rate


def random_sentences(seed: int, count: int = 60) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(["a", "bb", "ccc", "dd", "e"], k=generator.randint(1, 8))) for _ in range(count)]


REFERENCES, HYPOTHESES = random_sentences(0), random_sentences(1)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("a b c", "a b c", (0, 0, 0, 3)),
        ("a b c", "a x c", (1, 0, 0, 3)),
        ("a b c", "a c", (0, 1, 0, 3)),
        ("a b c", "a b b c", (0, 0, 1, 3)),
        ("", "a b", (0, 0, 2, 0)),
        ("a b", "", (0, 2, 0, 2)),
        ("", "", (0, 0, 0, 0)),
    ],
)
def test_counts(reference: str, hypothesis: str, counts: tuple[int, ...]) -> None:
    assert count_errors(reference.split(), hypothesis.split()) == counts


def test_strings_are_counted_by_character() -> None:
    assert count_errors("größe", "grosse") == ErrorCounts(2, 0, 1, 5)


@pytest.mark.parametrize("place", range(0, len(REFERENCES), 6))
def test_counts_of_words_are_those_of_jiwer(place: int) -> None:
    reference, hypothesis = REFERENCES[place], HYPOTHESES[place]
    counts, peer = count_errors(reference.split(), hypothesis.split()), jiwer.process_words(reference, hypothesis)
    assert counts[:3] == (peer.substitutions, peer.deletions, peer.insertions)


def test_pooled_word_error_rate_is_that_of_jiwer() -> None:
    pairs = zip(REFERENCES, HYPOTHESES, strict=True)
    rate = error_rate([count_errors(reference.split(), hypothesis.split()) for reference, hypothesis in pairs])
    assert rate.value == pytest.approx(jiwer.wer(REFERENCES, HYPOTHESES))


def test_pooled_character_error_rate_is_that_of_jiwer() -> None:
    pairs = zip(REFERENCES, HYPOTHESES, strict=True)
    rate = error_rate([count_errors(reference, hypothesis) for reference, hypothesis in pairs])
    assert rate.value == pytest.approx(jiwer.cer(REFERENCES, HYPOTHESES))


@pytest.mark.parametrize(
    ("counts", "interval"),
    [  # Wilson's, as statsmodels' proportion_confint(method="wilson") gives them
        ([ErrorCounts(0, 0, 0, 10)] * 10, (0.0, 0.0369935)),
        ([ErrorCounts(2, 0, 0, 3)], (0.2076596, 0.9385081)),
        ([ErrorCounts(0, 0, 4, 2)], (0.3423802, 2.0)),
    ],
)
def test_utterances_that_are_all_alike_still_have_an_interval(
    counts: list[ErrorCounts], interval: tuple[float, float]
) -> None:
    assert error_rate(counts).interval == pytest.approx(interval, abs=1e-6)


def test_pooling_weighs_by_length() -> None:
    rate = error_rate([ErrorCounts(1, 0, 0, 1), ErrorCounts(0, 0, 0, 9)])
    assert rate.value == 0.1
    assert rate.counts == ErrorCounts(1, 0, 0, 10)


@pytest.mark.parametrize("seed", range(5))
def test_interval_contains_the_value_and_repeats(seed: int) -> None:
    generator = random.Random(seed)
    counts = [ErrorCounts(generator.randint(0, 3), 0, 0, generator.randint(1, 9)) for _ in range(50)]
    rate = error_rate(counts, seed=seed)
    assert rate.interval[0] < rate.value < rate.interval[1]
    assert rate == error_rate(counts, seed=seed)


def test_interval_is_that_of_the_binomial_where_errors_are_independent() -> None:
    counts = [ErrorCounts(int(place < 100), 0, 0, 1) for place in range(1000)]
    low, high = bootstrap_interval(counts)
    assert low == pytest.approx(0.1 - 1.96 * (0.09 / 1000) ** 0.5, abs=0.002)
    assert high == pytest.approx(0.1 + 1.96 * (0.09 / 1000) ** 0.5, abs=0.002)


def test_narrower_level_gives_a_narrower_interval() -> None:
    counts = [ErrorCounts(place % 3, 0, 0, 5) for place in range(30)]
    wide, narrow = bootstrap_interval(counts), bootstrap_interval(counts, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_empty_references_beside_others_are_counted() -> None:
    assert error_rate([ErrorCounts(0, 0, 2, 0), ErrorCounts(0, 0, 0, 4)]).value == 0.5


@pytest.mark.parametrize("counts", [[], [ErrorCounts(0, 0, 3, 0)]])
def test_no_reference_at_all_is_refused(counts: list[ErrorCounts]) -> None:
    with pytest.raises(ValueError, match="`counts` must hold at least one reference symbol"):
        error_rate(counts)
