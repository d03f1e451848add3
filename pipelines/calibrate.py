"""A recogniser and a development set -> the temperature with which its confidences can be believed."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from speechkit.decoding import Hypothesis, align_words
from speechkit.decoding.calibration import expected_calibration_error, fit_temperature
from speechkit.pipelines.development_set import read_development_set
from speechkit.recognizer import Passage, Recognizer
from speechkit.transcription.search import search_passages


class Calibration(NamedTuple):
    """What was found on a development set."""

    temperature: float
    error_before: float  # expected calibration error with the recogniser's own temperature
    error_after: float
    num_words: int
    num_right: int


def calibrate(
    recognizer: Recognizer,
    manifest: str | os.PathLike[str],
    *,
    on_progress: Callable[[float], Any] = lambda seconds: None,
) -> Calibration:
    """Fits the temperature to the words that the recogniser hears in a manifest's recordings; changes nothing.

    Raises:
        ValueError: no manifest, an utterance without text, a file that cannot be read, or words that are all right or
            all wrong: then any temperature would do, or none.
    """
    passages: list[Passage] = []
    hypotheses: list[list[Hypothesis]] = []
    right: list[bool] = []
    for reference, found in read_development_set(recognizer, manifest, on_progress=on_progress):
        searched = search_passages(recognizer.decoder, found)
        heard = [word.text for segment in recognizer.segments(found, searched) for word in segment.words]
        right += [word.is_right for word in align_words(reference, heard) if word.hypothesis is not None]
        passages += found
        hypotheses += searched
    if len(set(right)) < 2:
        kind = "no word" if not right else f"{len(right)} words, all of them {'right' if right[0] else 'wrong'},"
        raise ValueError(f"{manifest}: calibration needs words that are heard right and others wrong, got {kind} in it")

    def confidences_at(temperature: float) -> list[float]:
        segments = recognizer.segments(passages, hypotheses, temperature=temperature)
        return [word.confidence for segment in segments for word in segment.words]

    temperature = fit_temperature(confidences_at, right)
    before, after = (
        expected_calibration_error(confidences_at(value), right) for value in (recognizer.temperature, temperature)
    )
    return Calibration(temperature, before, after, len(right), sum(right))
