"""Recordings without text -> a manifest of those that a model transcribes well enough to learn from."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from speechkit.audio import read_audio_info
from speechkit.data import Utterance, read_utterances, write_utterances
from speechkit.decoding.pseudo_labels import PseudoLabelFilter, characters_per_second
from speechkit.recognizer import Recognizer, Span, Transcript


class PseudoLabelled(NamedTuple):
    """What became of the recordings.

    Attributes:
        num_kept: utterances in the manifest.
        num_dropped: those that the filter refused.
        num_failed: those that could not be read.
        kept_seconds: audio in the manifest.
    """

    num_kept: int
    num_dropped: int
    num_failed: int
    kept_seconds: float


def pseudo_label(
    recognizer: Recognizer,
    unlabelled: Sequence[str | os.PathLike[str]],
    labelled: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    keep: PseudoLabelFilter,
    *,
    batch_seconds: float = 60.0,
    on_progress: Callable[[float], object] = lambda seconds: None,
) -> PseudoLabelled:
    """One round of pseudo-labelling (Kahn et al. 2020, arXiv 1909.09116; in rounds Xu et al. 2020, arXiv 2005.09267).

    The manifest is the cache: training reads it beside the labelled ones, and the next round, by a model that was
    trained so, writes another one. With a language model in the bundle the search uses it.

    Args:
        recognizer: the teacher.
        unlabelled: manifests; their texts, if any, are not looked at, and utterances of `labelled` are left out.
        labelled: manifests whose rate of speech the texts are held against.
        out: the manifest that is written.
        keep: which transcripts are good enough; by `Transcript.confidence`.
        batch_seconds: audio in one batch, padding included.
        on_progress: called with the seconds of each recording as it is done.

    Raises:
        ValueError: no recording, no true text, or `out` is one of the manifests or cannot be written.
    """
    if Path(out).resolve() in {Path(path).resolve() for path in (*unlabelled, *labelled)}:
        raise ValueError(f"`out` must be a new manifest, got {out}.")
    if Path(out).is_dir() or not os.access(_nearest_folder(Path(out)), os.W_OK):
        raise ValueError(f"`out` must be a file that can be written, got {out}.")
    true = [utterance for path in labelled for utterance in read_utterances(path)]
    with_text = [utterance for utterance in true if utterance.text]
    usual_rate = characters_per_second((item.text for item in with_text), [_seconds(item) for item in with_text])
    known = {_place(utterance) for utterance in true}
    utterances = [item for path in unlabelled for item in read_utterances(path) if _place(item) not in known]
    if not utterances:
        raise ValueError("`unlabelled` must hold an utterance that `labelled` does not, got none.")
    kept: dict[int, Utterance] = {}
    seconds, num_failed = 0.0, 0
    spans = [Span(item.audio_path, item.offset_seconds, item.duration_seconds) for item in utterances]
    for place, transcript in recognizer.transcribe_iter(spans, batch_seconds=batch_seconds):
        if transcript.error is not None:
            num_failed += 1
        elif _is_good(transcript, keep, usual_rate):
            duration = transcript.duration_seconds
            kept[place] = replace(utterances[place], text=transcript.text, duration_seconds=duration)
            seconds += duration
        on_progress(transcript.duration_seconds)
    write_utterances(out, (kept[place] for place in sorted(kept)))
    return PseudoLabelled(len(kept), len(utterances) - len(kept) - num_failed, num_failed, seconds)


def _nearest_folder(path: Path) -> Path:
    """The first of its folders that is there."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def _is_good(transcript: Transcript, keep: PseudoLabelFilter, usual_rate: float) -> bool:
    return keep.keeps(
        transcript.text,
        seconds=transcript.duration_seconds,
        confidence=transcript.confidence or 0.0,
        usual_rate=usual_rate,
    )


def _place(utterance: Utterance) -> tuple[Path, float]:
    return utterance.audio_path.resolve(), utterance.offset_seconds


def _seconds(utterance: Utterance) -> float:
    """Of the audio; where the manifest does not say, the file does."""
    if utterance.duration_seconds is not None:
        return utterance.duration_seconds
    return read_audio_info(utterance.audio_path).duration_seconds - utterance.offset_seconds
