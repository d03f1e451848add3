"""Audio of any length -> segments that fit a model and its memory, cut where nobody speaks.

A pause ends a segment, and what is silent is left out. Where nobody pauses for long, a segment is cut at its quietest
moment, and both sides are given some of the other's audio, so that their results can be joined at a word border.
"""

from typing import NamedTuple

import numpy as np

from speechkit.audio.voice_activity import FRAME_SECONDS, VoiceActivityDetector

_QUIET_FRAMES = 20  # a cut's surroundings


class AudioSegment(NamedTuple):
    """A stretch of a recording: its own samples, and around them those that its neighbours have as well.

    Attributes:
        samples: (N,), context included.
        levels: in dB of full scale, of every 10 ms of them; see `VoiceActivityDetector`.
        offset: place of the first of them in the recording.
        start: place of the first that is its own.
        end: place after the last that is its own.
    """

    samples: np.ndarray
    levels: np.ndarray
    offset: int
    start: int
    end: int

    @property
    def shares_start(self) -> bool:
        """Whether it was cut off from the segment before, in the midst of speech."""
        return self.start > self.offset

    @property
    def shares_end(self) -> bool:
        """Whether it was cut off from the segment behind, in the midst of speech."""
        return self.end < self.offset + len(self.samples)


class Segmenter:
    """Samples as they come in, segments out; they do not depend on the pieces in which the samples come.

    Args:
        sample_rate_hz: of the samples.
        pause_seconds: a silence of this length ends a segment.
        max_seconds: the longest segment, context included.
        padding_seconds: silence that is kept before and behind speech.
        context_seconds: of its neighbour that a segment shares where it was cut in the midst of speech.

    Raises:
        ValueError: lengths of which one does not leave room for another.
    """

    def __init__(
        self,
        sample_rate_hz: int,
        *,
        pause_seconds: float = 1.0,
        max_seconds: float = 20.0,
        padding_seconds: float = 0.4,
        context_seconds: float = 1.0,
    ) -> None:
        if not 0 < 2 * padding_seconds <= pause_seconds:
            raise ValueError(
                f"`pause_seconds` must be at least twice `padding_seconds` = {padding_seconds}, got {pause_seconds}."
            )
        if not 6 * context_seconds <= max_seconds:
            raise ValueError(
                f"`max_seconds` must be at least six times `context_seconds` = {context_seconds}, got {max_seconds}."
            )
        self._detector = VoiceActivityDetector(sample_rate_hz)
        self._frame = self._detector.frame_length
        self._pause, self._most, self._padding, self._context = (
            round(seconds / FRAME_SECONDS) for seconds in (pause_seconds, max_seconds, padding_seconds, context_seconds)
        )
        self._samples = np.zeros(0, dtype=np.float32)  # from frame `_first` on
        self._levels: list[float] = []  # of the frames from `_first` on
        self._first = 0
        self._next = 0  # frame to look at next
        self._start: int | None = None  # frame at which the open segment's own part starts; none in silence
        self._offset = 0  # frame at which its audio starts
        self._earliest = 0  # frame at which the next segment may start
        self._last_speech = 0  # frame after the last one with speech

    def open_segment(self) -> AudioSegment:
        """What is there of the segment that is being spoken; no samples in silence."""
        end = self._first * self._frame + len(self._samples)
        return (
            AudioSegment(self._samples[:0], np.zeros(0), end, end, end)
            if self._start is None
            else self._segment(end, end)
        )

    def push(self, samples: np.ndarray) -> list[AudioSegment]:
        """Samples (N,) in [-1, 1] -> the segments that are complete with them."""
        self._samples = np.concatenate([self._samples, samples.astype(np.float32, copy=False)])
        levels, speech = self._detector.push(samples)
        self._levels.extend(levels.tolist())
        segments = []
        for is_speech in speech.tolist():
            self._next += 1
            if is_speech:
                self._last_speech = self._next
                if self._start is None:
                    self._start = self._offset = max(self._earliest, self._next - 1 - self._padding)
            if self._start is None:
                continue
            if self._next - self._last_speech >= self._pause:
                segments.append(self._end_at(self._last_speech + self._padding))
            elif self._next - self._offset >= self._most:
                segments.append(self._cut())
        self._forget()
        return segments

    def finish(self) -> list[AudioSegment]:
        """What is left, at the end of the recording; the segmenter takes no more samples."""
        if self._start is None:
            return []
        total = self._first * self._frame + len(self._samples)
        end = (self._last_speech + self._padding) * self._frame
        segment = self._segment(min(end, total), min(end, total))
        self._start = None
        return [segment]

    def _end_at(self, end: int) -> AudioSegment:
        segment = self._segment(end * self._frame, end * self._frame)
        self._start, self._earliest = None, end
        return segment

    def _cut(self) -> AudioSegment:
        """Ends the open segment at the quietest moment of its second half, and opens the next one there."""
        first, last = self._offset + self._most // 2, self._next - self._context
        levels = np.array(self._levels[first - self._first : last - self._first])
        means = np.convolve(levels, np.ones(_QUIET_FRAMES) / _QUIET_FRAMES, mode="valid")
        cut = first + int(means.argmin()) + _QUIET_FRAMES // 2
        segment = self._segment(cut * self._frame, (cut + self._context) * self._frame)
        self._start, self._offset = cut, cut - self._context
        return segment

    def _segment(self, end: int, last: int) -> AudioSegment:
        """The open segment, up to a sample; its own part up to another."""
        assert self._start is not None
        offset, origin = self._offset * self._frame, self._first * self._frame
        samples = self._samples[offset - origin : last - origin].copy()
        levels = np.array(self._levels[self._offset - self._first : last // self._frame - self._first])
        return AudioSegment(samples, levels, offset, self._start * self._frame, end)

    def _forget(self) -> None:
        """Drops audio that no segment can want any more."""
        keep = self._offset if self._start is not None else max(self._earliest, self._next - self._padding)
        self._samples = self._samples[(keep - self._first) * self._frame :]
        del self._levels[: keep - self._first]
        self._first = keep
