"""Which of the words that sound alike were meant: the likeliest sentence of them (Viterbi 1967)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from speechkit.decoding.lexicon import KnownWord
from speechkit.decoding.ngram import NGram, advance


class Sentence(NamedTuple):
    """The words that were chosen, and the language model's log-probability of them and of their end."""

    words: tuple[str, ...]
    lm_score: float


def choose_words(
    alike: Sequence[Sequence[KnownWord]],
    language_model: NGram | None,
    *,
    lm_weight: float = 1.0,
    unknown_penalty: float = 0.0,
    hotwords: Mapping[str, float] | None = None,
    begins: bool = True,
    ends: bool = True,
) -> Sentence:
    """Chooses a word at each place: what the search scores, but over the whole sentence.

    Args:
        alike: the words that are possible at each place, at least one, the likeliest by itself first.
        language_model: over them; without one the first of each is chosen that is no worse a hotword.
        lm_weight, unknown_penalty: see `BeamSearch`.
        hotwords: phrase, normalised -> nats for each of its words.
        begins: the sentence begins with these words.
        ends: it ends with them.
    """
    expected = _expected_words(alike, hotwords or {})
    start = 0 if language_model is None or not begins else language_model.begin_state
    best: dict[int, tuple[float, Sentence]] = {start: (0.0, Sentence((), 0.0))}  # for each state
    for words, nats in zip(alike, expected, strict=True):
        further: dict[int, tuple[float, Sentence]] = {}
        for state, (score, sentence) in best.items():
            for word in words:
                log_prob, next_state, gain = 0.0, 0, nats.get(word.text, 0.0)
                if language_model is not None:
                    log_prob, next_state = advance(language_model.tables, state, word.word_id)
                    gain += lm_weight * log_prob - word.penalty(language_model, unknown_penalty)
                if next_state not in further or score + gain > further[next_state][0]:
                    longer = Sentence((*sentence.words, word.text), sentence.lm_score + log_prob)
                    further[next_state] = score + gain, longer
        best = further
    if language_model is None or not ends:
        return max(best.values(), key=lambda entry: entry[0])[1]
    ended = []
    for state, (score, sentence) in best.items():
        log_prob, _ = advance(language_model.tables, state, language_model.end_id)
        ended.append((score + lm_weight * log_prob, Sentence(sentence.words, sentence.lm_score + log_prob)))
    return max(ended, key=lambda entry: entry[0])[1]


def _expected_words(alike: Sequence[Sequence[KnownWord]], hotwords: Mapping[str, float]) -> list[dict[str, float]]:
    """At each place, the words of the phrases that can stand there -> nats."""
    possible = [{word.text for word in words} for words in alike]
    expected: list[dict[str, float]] = [{} for _ in alike]
    for phrase, nats in hotwords.items():
        parts = phrase.split()
        for start in range(len(alike) - len(parts) + 1):
            if all(part in possible[start + place] for place, part in enumerate(parts)):
                for place, part in enumerate(parts, start=start):
                    expected[place][part] = expected[place].get(part, 0.0) + nats
    return expected
