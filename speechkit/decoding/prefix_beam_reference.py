"""CTC prefix beam search to be read and to be tested against: pure Python, every prefix scored anew from its text.

A prefix is a sequence of labels; its probability is that of all paths that collapse to it, kept apart by whether they
end in a blank or in the last label (Graves 2012, 7.5.3; Hannun et al. 2014, arXiv 1408.2873). It is ranked by

    log P(prefix | audio) + lm_weight log P(words) + word_bonus |words| - unknown_penalty |unknown words| + hotwords

and, for the word that has only begun, the most that it can still add by itself (`TextScore.of_beginning`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from speechkit.decoding.hypothesis import Hypothesis
from speechkit.decoding.lexicon import KnownWord
from speechkit.decoding.ngram import NGram, advance

IMPOSSIBLE = -math.inf
Prefix = tuple[int, ...]
Beam = dict[Prefix, tuple[float, float]]  # log-probabilities of the paths that end in a blank, and in the last label


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """What a text adds to its acoustic score; the arguments are those of `speechkit.decoding.BeamSearch`.

    Args:
        words: the words that are known, by what their labels write; of several the likeliest counts.
        closed: no other words are possible.
        hotwords: phrase -> nats for each of its words.
    """

    words: Mapping[str, Sequence[KnownWord]] = field(default_factory=dict)
    closed: bool = False
    language_model: NGram | None = None
    lm_weight: float = 0.5
    word_bonus: float = 0.0
    unknown_penalty: float = 0.0
    sentence_end: bool = True
    hotwords: Mapping[str, float] = field(default_factory=dict)

    def of_whole(self, text: str) -> tuple[float, float]:
        """(what is added, the language model's part of it without its weight)."""
        words = text.split()
        score, lm_score, state = self._of_words(words)
        if self.language_model is not None and self.sentence_end:
            log_prob, _ = advance(self.language_model.tables, state, self.language_model.end_id)
            score, lm_score = score + self.lm_weight * log_prob, lm_score + log_prob
        return score + self._of_hotwords(words), lm_score

    def of_beginning(self, text: str) -> float:
        """What is added as long as more may follow; the last word can go on unless a space stands behind it."""
        *words, begun = text.split(" ")
        words = [word for word in words if word]
        score, _, _ = self._of_words(words)
        return score + self._look_ahead(begun) + self._of_hotwords(words) + self._of_hotword_in_progress(words, begun)

    @property
    def _begin_state(self) -> int:
        return 0 if self.language_model is None else self.language_model.begin_state

    def _of_words(self, words: Sequence[str]) -> tuple[float, float, int]:
        """(score without hotwords, the language model's part, its state), the sentence going on."""
        score, lm_score, state = 0.0, 0.0, self._begin_state
        for word in words:
            if self.closed and word not in self.words:
                return IMPOSSIBLE, IMPOSSIBLE, state
            weighted, log_prob, state = self._of_word(word, state)
            score, lm_score = score + weighted, lm_score + log_prob
        return score, lm_score, state

    def _of_word(self, word: str, state: int) -> tuple[float, float, int]:
        if self.language_model is None:
            return self.word_bonus, 0.0, state
        scores = []
        for known in self.words.get(word) or [KnownWord(word, self.language_model.unknown_id)]:
            log_prob, next_state = advance(self.language_model.tables, state, known.word_id)
            penalty = known.penalty(self.language_model, self.unknown_penalty)
            scores.append((self.lm_weight * log_prob + self.word_bonus - penalty, log_prob, next_state))
        return max(scores, key=lambda entry: entry[0])

    def _look_ahead(self, begun: str) -> float:
        """The best word that begins so, as if it began a sentence; its own score replaces this when it is finished."""
        if not begun or (self.language_model is None and not self.closed):
            return 0.0
        possible = [word for word in self.words if word.startswith(begun)] + [""] * (not self.closed)
        return max(
            (self._of_word(word, self._begin_state)[0] - self.word_bonus for word in possible), default=IMPOSSIBLE
        )

    def _of_hotwords(self, words: Sequence[str]) -> float:
        """A phrase counts wherever its words stand in a row, whether or not another has counted them."""
        total = 0.0
        for phrase, boost in self.hotwords.items():
            parts = phrase.split()
            starts = range(len(words) - len(parts) + 1)
            total += boost * len(parts) * sum(list(words[start : start + len(parts)]) == parts for start in starts)
        return total

    def _of_hotword_in_progress(self, words: Sequence[str], begun: str) -> float:
        """The most that a phrase has earned which the end of the text begins: in proportion to its letters."""
        earned = 0.0
        for start in range(len(words) + 1):
            end = "".join(word + " " for word in words[start:]) + begun
            for phrase, boost in self.hotwords.items():
                if f"{phrase} ".startswith(end) and end != f"{phrase} ":
                    share = len(end.replace(" ", "")) / len(phrase.replace(" ", ""))
                    earned = max(earned, share * boost * len(phrase.split()))
        return earned


def prefix_beam_search(
    log_probs: NDArray[np.float64],
    label_texts: Sequence[str],
    text_score: TextScore,
    *,
    beam_size: int,
    beam_threshold: float = math.inf,
    token_beam_size: int | None = None,
    token_threshold: float = -math.inf,
) -> list[Hypothesis]:
    """Finds the likeliest texts of one utterance.

    Args:
        log_probs: (T, V), symbol 0 is the blank.
        label_texts: (V,) what each label adds to the text, see `speechkit.text.Tokenizer.label_text`. A label without
            text is never taken. A space where no word has begun adds nothing, so it leaves the prefix as it is.
        text_score: what is added to the acoustic score.
        beam_size, beam_threshold, token_beam_size, token_threshold: see `speechkit.decoding.BeamSearch`.

    Returns:
        All that is left in the beam, best first. Where a closed vocabulary leaves the last word unfinished in all of
        it, that word is cut off.
    """
    separator = label_texts.index(" ") if " " in label_texts else None
    labels_are_words = all(text.startswith(" ") and text != " " for text in label_texts if text)

    def text_of(prefix: Prefix) -> str:
        return "".join(label_texts[label] for label in prefix) + " " * labels_are_words

    beam: Beam = {(): (0.0, IMPOSSIBLE)}
    for frame in log_probs.tolist():
        least = max(sorted(frame, reverse=True)[:token_beam_size][-1], min(token_threshold, max(frame)))
        labels = [label for label, text in enumerate(label_texts) if text and frame[label] >= least]
        beam = _one_frame_further(beam, frame, labels, separator)
        added = {prefix: text_score.of_beginning(text_of(prefix)) for prefix in beam}
        ranked = sorted(
            ((way + added[prefix], prefix, end) for prefix, ways in beam.items() for end, way in enumerate(ways)),
            key=lambda entry: -entry[0],
        )
        kept: dict[Prefix, list[float]] = {}
        for score, prefix, end in ranked[:beam_size]:
            if score > IMPOSSIBLE and score >= ranked[0][0] - beam_threshold:
                kept.setdefault(prefix, [IMPOSSIBLE, IMPOSSIBLE])[end] = beam[prefix][end]
        beam = {prefix: (blank, label) for prefix, (blank, label) in kept.items()}

    def is_whole(prefix: Prefix) -> bool:
        return text_score.of_whole(text_of(prefix))[0] > IMPOSSIBLE

    is_any_whole = any(map(is_whole, beam))
    totals: dict[Prefix, float] = {}
    for prefix, ways in beam.items():
        whole = prefix
        while not (is_any_whole or is_whole(whole)):
            whole = whole[:-1]
        if whole and whole[-1] == separator:
            whole = whole[:-1]
        totals[whole] = _log_add(totals.get(whole, IMPOSSIBLE), _log_add(*ways))
    hypotheses = []
    for prefix, total in totals.items():
        score, lm_score = text_score.of_whole(text_of(prefix))
        if score > IMPOSSIBLE:
            hypotheses.append(Hypothesis(list(prefix), total + score, total, lm_score))
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)


def _one_frame_further(beam: Beam, frame: list[float], labels: list[int], separator: int | None) -> Beam:
    """All prefixes that those in the beam can be after one more frame; `labels` are those that may be added."""
    further: Beam = {}

    def add(prefix: Prefix, blank: float, label: float) -> None:
        old = further.get(prefix, (IMPOSSIBLE, IMPOSSIBLE))
        further[prefix] = _log_add(old[0], blank), _log_add(old[1], label)

    for prefix, (blank, label) in beam.items():
        total = _log_add(blank, label)
        last = prefix[-1] if prefix else separator
        add(prefix, total + frame[0], IMPOSSIBLE)
        if last is not None:
            add(prefix, IMPOSSIBLE, (total if last == separator else label) + frame[last])
        for symbol in labels:
            if symbol != last:
                add((*prefix, symbol), IMPOSSIBLE, total + frame[symbol])
            elif symbol != separator:
                add((*prefix, symbol), IMPOSSIBLE, blank + frame[symbol])
    return further


def _log_add(x: float, y: float) -> float:
    return max(x, y) + math.log1p(math.exp(-abs(x - y))) if min(x, y) > IMPOSSIBLE else max(x, y)
