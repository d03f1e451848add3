"""A recogniser and a development set -> the temperature with which its confidences can be believed."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from speechkit.data import read_utterances
from speechkit.decoding import align_words
from speechkit.decoding.calibration import expected_calibration_error, fit_temperature
from speechkit.recognizer import Passage, Recognizer, Span
from speechkit.text import normalize_text


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
        ValueError: no manifest, an utterance without text, a file that cannot be read, or no word heard.
    """
    utterances = read_utterances(manifest)
    spans = [Span(item.audio_path, item.offset_seconds, item.duration_seconds) for item in utterances]
    passages: list[Passage] = []
    right: list[bool] = []
    for place, found in recognizer.passages_iter(spans):
        if isinstance(found, Exception):
            raise ValueError(str(found))
        text = utterances[place].text
        if text is None:
            raise ValueError(f"{manifest}: {utterances[place].id} has no `text` to compare with")
        heard = [word.text for segment in recognizer.decode(found) for word in segment.words]
        aligned = align_words(normalize_text(text).split(), heard)
        right += [word.is_right for word in aligned if word.hypothesis is not None]
        passages += found
        on_progress(sum(passage.end_seconds - passage.start_seconds for passage in found))
    if not right:
        raise ValueError(f"{manifest}: the model hears no word in it, so there is nothing to calibrate")

    def confidences_at(temperature: float) -> list[float]:
        segments = recognizer.decode(passages, temperature=temperature)
        return [word.confidence for segment in segments for word in segment.words]

    temperature = fit_temperature(confidences_at, right)
    before, after = (
        expected_calibration_error(confidences_at(value), right) for value in (recognizer.temperature, temperature)
    )
    return Calibration(temperature, before, after, len(right), sum(right))
