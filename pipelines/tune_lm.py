"""A recogniser, a language model and a development set -> how much the language model should count."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from speechkit.decoding import BeamSearch, GreedySearch, NGram, count_errors
from speechkit.pipelines.development_set import read_development_set
from speechkit.recognizer import Recognizer

WEIGHTS = (0.2, 0.5, 0.8, 1.1, 1.5)
BONUSES = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


RATES = ("wer", "cer")


class Trial(NamedTuple):
    """Error rate with one choice of weights, as a fraction."""

    lm_weight: float
    word_bonus: float
    error_rate: float


class Tuning(NamedTuple):
    """All trials, and without a language model."""

    greedy: float
    trials: list[Trial]

    @property
    def best(self) -> Trial:
        """Of the trials with the fewest errors the one whose weights are least."""
        return min(self.trials, key=lambda trial: (trial.error_rate, trial.lm_weight, abs(trial.word_bonus)))


def tune_lm(
    recognizer: Recognizer,
    language_model: NGram,
    manifest: str | os.PathLike[str],
    *,
    beam_size: int = 50,
    rate: str = "wer",
    weights: Sequence[float] = WEIGHTS,
    bonuses: Sequence[float] = BONUSES,
    on_trial: Callable[[Trial], Any] = lambda trial: None,
) -> Tuning:
    """Tries a grid of weights, and then half its steps around the best one. The encoder runs once.

    Args:
        recognizer: the model; its own decoder is not used.
        language_model: over words.
        manifest: a development set with `text`.
        beam_size: of the search.
        rate: "wer", or "cer": what is the least. Where most words are wrong, fewest wrong words are had by leaving many
            out; then characters say more.
        weights: of the language model, first grid.
        bonuses: for each word, first grid.
        on_trial: called with each result.

    Raises:
        ValueError: no manifest, an utterance without text, a file that cannot be read, or another rate.
    """
    if rate not in RATES:
        raise ValueError(f"`rate` must be one of {', '.join(RATES)}, got {rate!r}.")
    utterances = read_development_set(recognizer, manifest)
    passages = [passage for _, found in utterances for passage in found]
    references = [" ".join(words) if rate == "cer" else words for words, _ in utterances]

    def error_rate(decoder: BeamSearch | GreedySearch) -> float:
        segments = iter(recognizer.decode(passages, word_times=False, decoder=decoder))
        errors = 0
        for reference, (_, found) in zip(references, utterances, strict=True):
            heard = " ".join(next(segments).text for _ in found).split()
            errors += count_errors(reference, " ".join(heard) if rate == "cer" else heard).errors
        return errors / max(1, sum(map(len, references)))

    trials: dict[tuple[float, float], Trial] = {}

    def attempt(weight: float, bonus: float) -> None:
        if (weight, bonus) in trials or weight < 0:
            return
        decoder = BeamSearch(
            tokenizer=recognizer.tokenizer,
            beam_size=beam_size,
            language_model=language_model,
            lm_weight=weight,
            word_bonus=bonus,
        )
        trials[weight, bonus] = Trial(weight, bonus, error_rate(decoder))
        on_trial(trials[weight, bonus])

    for weight in weights:
        for bonus in bonuses:
            attempt(weight, bonus)
    greedy = error_rate(GreedySearch(blank=recognizer.tokenizer.blank_id))
    centre = Tuning(greedy, list(trials.values())).best
    for weight_step in (-0.15, 0.0, 0.15):
        for bonus_step in (-0.5, 0.0, 0.5):
            attempt(round(centre.lm_weight + weight_step, 3), round(centre.word_bonus + bonus_step, 3))
    return Tuning(greedy, list(trials.values()))
