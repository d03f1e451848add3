"""What was heard in a recording: its segments, their words, and what else they might have been."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Word(NamedTuple):
    """A word, when it is said, and the recogniser's own estimate in [0, 1] of its being right."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float


class Alternative(NamedTuple):
    """Another text for a segment; scores, natural logarithms, compare within the segment."""

    text: str
    score: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech between two pauses, or as much of it as the model is given at a time.

    Attributes:
        text: what was heard.
        start_seconds: of the stretch, within the recording.
        end_seconds: of the stretch.
        words: those of the text with their times, if they were asked for.
        alternatives: the N best texts, the best one first, if several were asked for.
    """

    text: str
    start_seconds: float
    end_seconds: float
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """What was heard in one recording; `error` is the reason where it could not be read, and there is no text then."""

    segments: tuple[Segment, ...] = ()
    duration_seconds: float = 0.0
    error: str | None = None

    @property
    def text(self) -> str:
        """All of it, on one line."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def words(self) -> tuple[Word, ...]:
        """Of all segments, if word times were asked for."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def confidence(self) -> float | None:
        """The geometric mean of the words'; none without words."""
        return confidence(self.words)


def confidence(words: Sequence[Word]) -> float | None:
    """The geometric mean over words; none without any."""
    if not words:
        return None
    return math.exp(sum(math.log(max(word.confidence, 1e-30)) for word in words) / len(words))
