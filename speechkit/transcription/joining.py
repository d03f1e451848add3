"""Logits of a recording's segments, in order -> logits of passages, each frame of the recording in one of them.

Where speech was cut in two, both segments hold a second of the other's. They are joined at a border between words, one
that both of them hear, so no word stands at a seam and none is said twice (for frames that are merely cut at half of
the shared audio, as transformers' chunked CTC pipeline does, a word across the cut is two halves).
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from speechkit.audio import AudioSegment
from speechkit.decoding import greedy_spans
from speechkit.text import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    Logits = Tensor | np.ndarray


class Passage(NamedTuple):
    """Logits of a stretch of a recording.

    Attributes:
        logits: (T, V), a tensor on the CPU or an array.
        first_seconds: when its first frame stands.
        start_seconds: where the stretch begins.
        end_seconds: where it ends.
        levels: of the audio from `levels_seconds` on, every 10 ms, in dB of full scale.
        levels_seconds: when they begin.
        begins: it is not cut off from speech before it.
        ends: nor from speech behind it.
    """

    logits: "Logits"
    first_seconds: float
    start_seconds: float
    end_seconds: float
    levels: np.ndarray
    levels_seconds: float
    begins: bool = True
    ends: bool = True


class PassageJoiner:
    """Of one recording.

    Args:
        tokenizer: labels -> words.
        sample_rate_hz: of the segments.
        step_seconds: from one frame of the logits to the next.
        first_seconds: when the first frame of a segment stands after its start.
    """

    def __init__(self, tokenizer: Tokenizer, *, sample_rate_hz: int, step_seconds: float, first_seconds: float) -> None:
        self._tokenizer = tokenizer
        self._rate, self._step, self._first = sample_rate_hz, step_seconds, first_seconds
        self._waiting: Passage | None = None  # cut in the midst of speech: where it ends is for the next one to say

    def push(self, segment: AudioSegment, logits: "Logits") -> list[Passage]:
        """A segment and its logits (T, V) -> the passages that are complete with it."""
        passages = self._joined(segment, logits)
        self._waiting = passages.pop() if segment.shares_end else None
        return passages

    def preview(self, segment: AudioSegment, logits: "Logits") -> list[Passage]:
        """What `push` and `finish` would give; changes nothing."""
        return self._joined(segment, logits)

    def _joined(self, segment: AudioSegment, logits: "Logits") -> list[Passage]:
        offset, start, end = (place / self._rate for place in (segment.offset, segment.start, segment.end))
        passage = Passage(logits, offset + self._first, start, end, segment.levels, offset)
        if self._waiting is None:
            return [passage]
        seam = self._find_seam(self._waiting, passage)
        return [self._until(self._waiting, seam), self._since(passage, seam)]

    def finish(self) -> list[Passage]:
        """The passage that waited for another, if there is one."""
        return [] if self._waiting is None else [self._waiting]

    def _find_seam(self, left: Passage, right: Passage) -> float:
        """Seconds at which to go over from one to the other: crossing no word, where both heard the same so far."""
        cut = right.start_seconds
        reach = 0.5 * (cut - (right.first_seconds - self._first))  # results near a segment's end are the worst
        heard = [[span for span in self._spans(passage) if abs(sum(span) / 2 - cut) < 2 * reach]
                 for passage in (left, right)]  # fmt: skip
        gaps = [(spans[place][1] + spans[place + 1][0]) / 2 for spans in heard for place in range(len(spans) - 1)]
        candidates = [cut, *(gap for gap in gaps if abs(gap - cut) <= reach)]

        def cost(seam: float) -> tuple[int, float]:
            crossed = sum(start < seam < end for spans in heard for start, end in spans)
            before = [sum(start + end < 2 * seam for start, end in spans) for spans in heard]
            behind = [len(spans) - count for spans, count in zip(heard, before, strict=True)]
            return crossed + abs(before[0] - before[1]) + abs(behind[0] - behind[1]), abs(seam - cut)

        return min(candidates, key=cost)

    def _spans(self, passage: Passage) -> list[tuple[float, float]]:
        """Start and end in seconds of the words of the likeliest path."""
        labels, firsts, lasts = greedy_spans(passage.logits, blank=self._tokenizer.blank_id)
        return [
            (
                passage.first_seconds + (min(firsts[word]) - 0.5) * self._step,
                passage.first_seconds + (max(lasts[word]) - 0.5) * self._step,
            )
            for word in self._tokenizer.split_words(labels)
        ]

    def _until(self, passage: Passage, seam: float) -> Passage:
        frames = self._frames_before(passage, seam)
        return passage._replace(logits=passage.logits[:frames], end_seconds=seam, ends=False)

    def _since(self, passage: Passage, seam: float) -> Passage:
        frames = self._frames_before(passage, seam)
        first = passage.first_seconds + frames * self._step
        return passage._replace(logits=passage.logits[frames:], first_seconds=first, start_seconds=seam, begins=False)

    def _frames_before(self, passage: Passage, seconds: float) -> int:
        times = passage.first_seconds + self._step * np.arange(len(passage.logits))
        return int((times < seconds).sum())
