"""Speech as it is said: samples in, what is heard so far out, and what is final as soon as it is."""

import math
from typing import Any, NamedTuple

import numpy as np

from speechkit.audio import AudioSegment, Resampler, Segmenter
from speechkit.transcription.joining import PassageJoiner
from speechkit.transcription.transcript import Segment


class StreamResult(NamedTuple):
    """A segment, or what is heard of it so far."""

    segment: Segment
    is_final: bool


class RecognizerStream:
    """What `Recognizer.stream()` gives. Final segments are those of `Recognizer.transcribe` on the whole recording.

    A partial result is the whole of what is not final yet, heard anew: it replaces the one before.

    Args:
        recognizer: the model.
        sample_rate_hz: of the samples that come.
        partial_seconds: a partial result after so much more of speech.
        word_times: whether final segments have words.
    """

    def __init__(self, recognizer: Any, *, sample_rate_hz: int, partial_seconds: float, word_times: bool) -> None:
        if sample_rate_hz <= 0:
            raise ValueError(f"`sample_rate_hz` must be positive, got {sample_rate_hz}.")
        if not 0 < partial_seconds < math.inf:
            raise ValueError(f"`partial_seconds` must be positive and finite, got {partial_seconds}.")
        self._recognizer, self._word_times = recognizer, word_times
        self._resampler = Resampler(sample_rate_hz, recognizer.sample_rate_hz)
        self._segmenter = Segmenter(recognizer.sample_rate_hz)
        self._joiner: PassageJoiner = recognizer.joiner()
        self._every = round(partial_seconds * recognizer.sample_rate_hz)
        self._fresh = 0  # samples since the last result
        self._is_finished = False

    def push(self, samples: np.ndarray) -> list[StreamResult]:
        """Float samples (N,) in [-1, 1] -> results, in order; often none.

        Raises:
            ValueError: not one-dimensional, not float, or not finite, or the stream is finished.
        """
        self._check_open()
        samples = np.asarray(samples)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"`samples` must be floats of shape (N,), got {samples.dtype} of shape {samples.shape}.")
        if not np.isfinite(samples).all():
            raise ValueError("`samples` must be finite, got NaN or infinity.")
        samples = self._resampler.push(samples)
        self._fresh += len(samples)
        results = self._final(self._segmenter.push(samples))
        if self._fresh >= self._every and len(self._segmenter.open_segment().samples):
            results.extend(self._partial())
        return results

    def finish(self) -> list[StreamResult]:
        """The results that waited for more, at the end of the stream, which takes no more then.

        Raises:
            ValueError: the stream is finished.
        """
        self._check_open()
        self._is_finished = True
        segments = [*self._segmenter.push(self._resampler.finish()), *self._segmenter.finish()]
        results = self._final(segments)
        rest = self._recognizer.decode(self._joiner.finish(), word_times=self._word_times)
        return results + [StreamResult(segment, True) for segment in rest]

    def _check_open(self) -> None:
        if self._is_finished:
            raise ValueError("a stream that is finished takes no more; begin another one with `Recognizer.stream()`.")

    def _final(self, segments: list[AudioSegment]) -> list[StreamResult]:
        if not segments:
            return []
        self._fresh = 0
        passages = []
        for segment in segments:
            (logits,) = self._recognizer.segment_logits([segment])
            passages.extend(self._joiner.push(segment, logits))
        done = self._recognizer.decode(passages, word_times=self._word_times)
        return [StreamResult(segment, True) for segment in done]

    def _partial(self) -> list[StreamResult]:
        self._fresh = 0
        segment = self._segmenter.open_segment()
        (logits,) = self._recognizer.segment_logits([segment])
        heard = self._recognizer.decode(self._joiner.preview(segment, logits), word_times=False)
        text = " ".join(part.text for part in heard if part.text)
        if not text:
            return []
        return [StreamResult(Segment(text, heard[0].start_seconds, heard[-1].end_seconds), False)]
