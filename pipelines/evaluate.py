"""A recogniser and a manifest -> error rates with their uncertainty: over all, by speaker, by length, by word."""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from speechkit.data import Utterance
from speechkit.decoding import (
    AlignedWord,
    Confusions,
    ErrorCounts,
    ErrorRate,
    align_words,
    count_confusions,
    count_errors,
    error_rate,
)
from speechkit.pipelines.development_set import read_transcribed
from speechkit.recognizer import Recognizer, Span, Transcript
from speechkit.text import normalize_text

_MOST_LENGTHS = 5
_FEWEST_OF_A_LENGTH = 10


@dataclass(frozen=True)
class ScoredUtterance:
    """An utterance as it was said and as it was heard."""

    utterance: Utterance
    transcript: Transcript
    reference: str
    word_counts: ErrorCounts
    character_counts: ErrorCounts

    @property
    def hypothesis(self) -> str:
        return self.transcript.text

    @property
    def duration_seconds(self) -> float:
        return self.transcript.duration_seconds

    @property
    def alignment(self) -> list[AlignedWord]:
        return align_words(self.reference.split(), self.hypothesis.split())

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.utterance.id,
            "speaker": self.utterance.speaker,
            "duration_seconds": self.duration_seconds,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "confidence": self.transcript.confidence,
            "word_errors": self.word_counts.errors,
            "character_errors": self.character_counts.errors,
        }


@dataclass(frozen=True)
class GroupScore:
    """Error rates of utterances that have something in common; none where their references are empty."""

    name: str
    num_utterances: int
    seconds: float
    wer: ErrorRate | None
    cer: ErrorRate | None

    def as_dict(self) -> dict[str, Any]:
        rates = {"wer": self.wer, "cer": self.cer}
        return {
            "name": self.name,
            "utterances": self.num_utterances,
            "audio_seconds": self.seconds,
            "words": self.wer.counts.length if self.wer else 0,
            **{name: rate and rate.value for name, rate in rates.items()},
            **{f"{name}_interval": rate and list(rate.interval) for name, rate in rates.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """The result over a manifest.

    Attributes:
        utterances: those that could be read, in the order of the manifest.
        worst: the most word errors first.
        per_speaker: in the order of their names; empty where no utterance has a speaker.
        per_length: shortest first, each with about as many utterances.
        failures: the files that could not be read, each one line.
    """

    wer: ErrorRate
    cer: ErrorRate
    seconds: float
    utterances: list[ScoredUtterance]
    worst: list[ScoredUtterance]
    per_speaker: list[GroupScore]
    per_length: list[GroupScore]
    confusions: Confusions
    failures: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Rates as fractions, with counts; of confusions the most frequent first."""
        words, characters = self.wer.counts, self.cer.counts
        substituted, deleted, inserted = (counts.most_common() for counts in self.confusions)
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
            "utterances": len(self.utterances),
            "audio_seconds": self.seconds,
            "worst": [item.as_dict() for item in self.worst],
            "failures": self.failures,
            "per_speaker": [group.as_dict() for group in self.per_speaker],
            "per_length": [group.as_dict() for group in self.per_length],
            "substituted_words": [[*pair, count] for pair, count in substituted],
            "deleted_words": deleted,
            "inserted_words": inserted,
            "per_utterance": [item.as_dict() for item in self.utterances],
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
        ValueError: a negative `num_worst`, no manifest, an utterance without text, no words in any of them,
            or no file that could be read.
    """
    if num_worst < 0:
        raise ValueError(f"`num_worst` must not be negative, got {num_worst}.")
    utterances = read_transcribed(manifest)
    spans = [Span(item.audio_path, item.offset_seconds, item.duration_seconds) for item in utterances]
    scored: dict[int, ScoredUtterance] = {}
    failures = []
    for place, transcript in recognizer.transcribe_iter(spans):
        if transcript.error is not None:
            failures.append(transcript.error)
            continue
        scored[place] = _score(utterances[place], transcript)
        on_progress(transcript.duration_seconds)
    if not scored:
        raise ValueError(f"{manifest}: no utterance could be read" + (f"; first: {failures[0]}" if failures else ""))
    in_order = [scored[place] for place in sorted(scored)]
    return Evaluation(
        wer=error_rate([item.word_counts for item in in_order]),
        cer=error_rate([item.character_counts for item in in_order]),
        seconds=sum(item.duration_seconds for item in in_order),
        utterances=in_order,
        worst=sorted(in_order, key=lambda item: (-item.word_counts.errors, item.utterance.id))[:num_worst],
        per_speaker=_per_speaker(in_order),
        per_length=_per_length(in_order),
        confusions=count_confusions(item.alignment for item in in_order),
        failures=failures,
    )


def _score(utterance: Utterance, transcript: Transcript) -> ScoredUtterance:
    reference = normalize_text(utterance.text or "")
    word_counts = count_errors(reference.split(), transcript.text.split())
    character_counts = count_errors(reference, transcript.text)
    return ScoredUtterance(utterance, transcript, reference, word_counts, character_counts)


def _per_speaker(utterances: Sequence[ScoredUtterance]) -> list[GroupScore]:
    groups: dict[str, list[ScoredUtterance]] = defaultdict(list)
    for item in utterances:
        if item.utterance.speaker is not None:
            groups[item.utterance.speaker].append(item)
    return [_group(speaker, groups[speaker]) for speaker in sorted(groups)]


def _per_length(utterances: Sequence[ScoredUtterance]) -> list[GroupScore]:
    """At most five groups, of at least ten utterances each if there are so many."""
    ordered = sorted(utterances, key=lambda item: item.duration_seconds)
    count = max(1, min(_MOST_LENGTHS, len(ordered) // _FEWEST_OF_A_LENGTH))
    bounds = [len(ordered) * place // count for place in range(count + 1)]
    groups = [ordered[bounds[place] : bounds[place + 1]] for place in range(count)]
    return [_group(f"{group[0].duration_seconds:.2f} to {group[-1].duration_seconds:.2f} s", group) for group in groups]


def _group(name: str, members: Sequence[ScoredUtterance]) -> GroupScore:
    words, characters = [item.word_counts for item in members], [item.character_counts for item in members]
    seconds, has_words = sum(item.duration_seconds for item in members), any(item.reference for item in members)
    wer, cer = (error_rate(counts) if has_words else None for counts in (words, characters))
    return GroupScore(name, len(members), seconds, wer, cer)
