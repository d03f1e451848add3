"""Which of the words that sound alike were meant: the likeliest sentence of them (Viterbi 1967)."""

from collections.abc import Sequence

from speechkit.decoding.lexicon import KnownWord
from speechkit.decoding.ngram import NGram, advance


def choose_words(alike: Sequence[Sequence[KnownWord]], language_model: NGram | None) -> tuple[str, ...]:
    """Chooses a word at each place.

    Args:
        alike: the words that are possible at each place, at least one, the likeliest by itself first.
        language_model: over them; without one the first of each is chosen.
    """
    if language_model is None:
        return tuple(words[0].text for words in alike)
    best: dict[int, tuple[float, tuple[str, ...]]] = {language_model.begin_state: (0.0, ())}  # for each state
    for words in alike:
        further: dict[int, tuple[float, tuple[str, ...]]] = {}
        for state, (score, chosen) in best.items():
            for word in words:
                log_prob, next_state = advance(language_model.tables, state, word.word_id)
                if next_state not in further or score + log_prob > further[next_state][0]:
                    further[next_state] = score + log_prob, (*chosen, word.text)
        best = further
    ended = {
        state: score + advance(language_model.tables, state, language_model.end_id)[0]
        for state, (score, _) in best.items()
    }
    return best[max(ended, key=lambda state: ended[state])][1]
