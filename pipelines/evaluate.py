"""A recogniser and a manifest -> error rates with their uncertainty."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from speechkit.data import read_utterances
from speechkit.decoding import ErrorRate, count_errors, error_rate
from speechkit.recognizer import Recognizer, Span
from speechkit.text import normalize_text


@dataclass(frozen=True)
class ScoredUtterance:
    """An utterance as it was and as it was heard."""

    path: str
    reference: str
    hypothesis: str
    word_errors: int


@dataclass(frozen=True)
class Evaluation:
    """The result over a manifest; `failures` are the files that could not be read, each one line."""

    wer: ErrorRate
    cer: ErrorRate
    num_utterances: int
    seconds: float
    worst: list[ScoredUtterance]
    failures: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Rates as fractions, with counts."""
        words, characters = self.wer.counts, self.cer.counts
        return {
            "wer": self.wer.value,
            "wer_interval": list(self.wer.interval),
            "cer": self.cer.value,
            "cer_interval": list(self.cer.interval),
            "words": words.length,
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "characters": characters.length,
            "character_errors": characters.errors,
            "utterances": self.num_utterances,
            "audio_seconds": self.seconds,
            "worst": [vars(item) for item in self.worst],
            "failures": self.failures,
        }


def evaluate(
    recognizer: Recognizer,
    manifest: str | os.PathLike[str],
    *,
    num_worst: int = 10,
    on_progress: Callable[[float], Any] = lambda seconds: None,
) -> Evaluation:
    """Transcribes every utterance of a manifest and scores it against its text, both normalised.

    Args:
        recognizer: the model.
        manifest: JSON lines with `text`.
        num_worst: how many of the worst utterances to keep.
        on_progress: called with the seconds of audio that were done.

    Raises:
        ValueError: no manifest, an utterance without text, or no file that could be read.
    """
    utterances = read_utterances(manifest)
    for utterance in utterances:
        if utterance.text is None:
            raise ValueError(f"{manifest}: {utterance.id} has no `text` to score against")
    spans = [Span(item.audio_path, item.offset_seconds, item.duration_seconds) for item in utterances]
    words, characters, scored, failures, seconds = [], [], [], [], 0.0
    for place, transcript in recognizer.transcribe_iter(spans):
        if transcript.error is not None:
            failures.append(transcript.error)
            continue
        reference = normalize_text(utterances[place].text or "")
        words.append(count_errors(reference.split(), transcript.text.split()))
        characters.append(count_errors(reference, transcript.text))
        scored.append(ScoredUtterance(utterances[place].id, reference, transcript.text, words[-1].errors))
        seconds += transcript.duration_seconds
        on_progress(transcript.duration_seconds)
    if not scored:
        raise ValueError(f"{manifest}: no utterance could be read" + (f"; first: {failures[0]}" if failures else ""))
    worst = sorted(scored, key=lambda item: (-item.word_errors, item.path))[:num_worst]
    return Evaluation(error_rate(words), error_rate(characters), len(scored), seconds, worst, failures)
