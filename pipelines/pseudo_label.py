"""Recordings without text -> a manifest of those that a model transcribes well enough to learn from."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from speechkit.audio import read_audio_info
from speechkit.data import Utterance, read_utterances, write_utterances
from speechkit.decoding import GreedySearch
from speechkit.decoding.pseudo_labels import PseudoLabelFilter, characters_per_second
from speechkit.recognizer import Recognizer, Span


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
    teacher: str = "",
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
        teacher: what tells the recogniser from others. Until the manifest is whole, what was heard stands in
            `out`.partial, and an interrupted call is gone on with by one of the same teacher, with any filter.
        batch_seconds: audio in one batch, padding included.
        on_progress: called with the seconds of each recording as it is done.

    Raises:
        ValueError: no recording, no true text, labels of sounds without a language model that makes words of them, or
            `out` is one of the manifests or cannot be written.
    """
    if not recognizer.tokenizer.spells_any_word and isinstance(recognizer.decoder, GreedySearch):
        raise ValueError(
            "the model's labels are sounds, and what it writes without a language model are no words to learn from; "
            "`speechkit lm tune` puts a language model into the bundle."
        )
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
    partial = Path(f"{out}.partial")
    heard = _read_partial(partial, teacher)
    left = [item for item in utterances if _key(item) not in heard]
    spans = [Span(item.audio_path, item.offset_seconds, item.duration_seconds) for item in left]
    for row in heard.values():
        on_progress(row["seconds"])
    with partial.open("a", encoding="utf-8") as file:
        for place, transcript in recognizer.transcribe_iter(spans, batch_seconds=batch_seconds):
            if transcript.error is None:
                row = {"seconds": transcript.duration_seconds, "text": transcript.text}
                row["confidence"] = transcript.confidence or 0.0
                heard[_key(left[place])] = row
                file.write(json.dumps([_key(left[place]), row], ensure_ascii=False) + "\n")
                file.flush()
            on_progress(transcript.duration_seconds)
    found = [(item, heard[_key(item)]) for item in utterances if _key(item) in heard]
    kept = [
        replace(item, text=row["text"], duration_seconds=row["seconds"])
        for item, row in found
        if keep.keeps(row["text"], seconds=row["seconds"], confidence=row["confidence"], usual_rate=usual_rate)
    ]
    write_utterances(out, kept)
    partial.unlink()
    return PseudoLabelled(len(kept), len(found) - len(kept), len(utterances) - len(found), sum(map(_seconds, kept)))


def _read_partial(path: Path, teacher: str) -> dict[str, dict[str, Any]]:
    """What this teacher has heard already; the file is begun anew where it is another's, or broken off in its head."""
    head = json.dumps({"teacher": teacher})
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    if lines[:1] != [head]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + "\n", encoding="utf-8")
        return {}
    if lines[-1]:  # a line that was not finished
        lines[-1] = ""
        path.write_text("\n".join(lines), encoding="utf-8")
    return dict(map(json.loads, filter(None, lines[1:])))


def _key(utterance: Utterance) -> str:
    """Of its stretch of its file."""
    return f"{utterance.audio_path.resolve()} {utterance.offset_seconds} {utterance.duration_seconds}"


def _nearest_folder(path: Path) -> Path:
    """The first of its folders that is there."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def _place(utterance: Utterance) -> tuple[Path, float]:
    return utterance.audio_path.resolve(), utterance.offset_seconds


def _seconds(utterance: Utterance) -> float:
    """Of the audio; where the manifest does not say, the file does."""
    if utterance.duration_seconds is not None:
        return utterance.duration_seconds
    return read_audio_info(utterance.audio_path).duration_seconds - utterance.offset_seconds
