"""Speech as it is said: the final text is that of the whole recording; partial results come soon."""

from collections.abc import Callable

import numpy as np
import pytest

from speechkit import Recognizer

RATE = 8000
Say = Callable[..., np.ndarray]
PARTS = [0.4, "low", 0.2, "high", 0.1, "low", 1.8, "high", 0.05, "high", 0.9, "low", 2.5] + [
    "low",
    0.07,
    "high",
    0.09,
] * 40


@pytest.mark.parametrize("chunk", [113, 1600, 60 * RATE])
def test_the_final_text_is_the_offline_text(recognizer: Recognizer, say: Say, chunk: int) -> None:
    samples = say(PARTS)
    stream = recognizer.stream()
    results = [
        result for start in range(0, len(samples), chunk) for result in stream.push(samples[start : start + chunk])
    ]
    results += stream.finish()
    (offline,) = recognizer.transcribe([samples])
    assert tuple(result.segment for result in results if result.is_final) == offline.segments


def test_a_word_is_heard_within_half_a_second(recognizer: Recognizer, say: Say) -> None:
    samples = say([1.0, "low", 0.4, "high", 3.0])
    stream, heard = recognizer.stream(), []
    for start in range(0, len(samples), 400):
        for result in stream.push(samples[start : start + 400]):
            heard.append(((start + 400) / RATE, result.segment.text, result.is_final))
    first = {text: seconds for seconds, text, _ in reversed(heard)}
    assert first["low"] < 1.2 + 0.5
    assert first["low high"] < 1.8 + 0.5
    assert [entry for entry in heard if entry[2]] == [(pytest.approx(2.8, abs=0.2), "low high", True)]


def test_another_rate(recognizer: Recognizer, say: Say) -> None:
    samples = np.repeat(say([0.5, "low", 0.3, "high", 0.5]), 2)
    stream = recognizer.stream(sample_rate_hz=2 * RATE)
    stream.push(samples)
    assert [result.segment.text for result in stream.finish()] == ["low high"]


def test_wrong_samples(recognizer: Recognizer) -> None:
    stream = recognizer.stream()
    with pytest.raises(ValueError, match="floats of shape"):
        stream.push(np.zeros(100, dtype=np.int16))
    with pytest.raises(ValueError, match="must be finite"):
        stream.push(np.full(100, np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="`partial_seconds` must be positive and finite, got 0"):
        recognizer.stream(partial_seconds=0)
    with pytest.raises(ValueError, match="`sample_rate_hz` must be positive, got -1"):
        recognizer.stream(sample_rate_hz=-1)


def test_a_finished_stream_takes_no_more(recognizer: Recognizer, say: Say) -> None:
    stream = recognizer.stream()
    stream.push(say([0.5, "low", 0.3]))
    stream.finish()
    for call in (lambda: stream.push(say([0.3])), stream.finish):
        with pytest.raises(ValueError, match="finished takes no more"):
            call()
