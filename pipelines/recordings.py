"""What the command line is given -> recordings, and where the result of each is written."""

import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from speechkit.audio import find_audio_files
from speechkit.data import read_utterances
from speechkit.data.manifest import MANIFESTS, expand_path
from speechkit.transcription import Span


class Recording(NamedTuple):
    """Something to transcribe.

    Attributes:
        name: what it is called in results.
        audio: the file, or the part of it.
        stem: where its results go below the output folder, without a suffix.
        stem_if_taken: the same, with the file's own suffix, where another recording has the same stem.
    """

    name: str
    audio: Span
    stem: str
    stem_if_taken: str


def find_recordings(inputs: Sequence[str]) -> list[Recording]:
    """Files, folders (through and through), patterns such as "talks/**/*.mp3", and manifests (.jsonl, .json).

    `~` and environment variables are expanded.

    Raises:
        ValueError: an input that is not there, a folder or pattern without audio, or a manifest that breaks its format.
    """
    found: dict[tuple[str, Span], Recording] = {}
    for item in inputs:
        for recording in _expand(item if Path(item).exists() else str(expand_path(item))):
            name = os.fsencode(recording.name).decode("utf-8", "backslashreplace")  # a file's name may be any bytes
            found.setdefault((name, recording.audio), recording._replace(name=name))
    return list(found.values())


def _expand(item: str) -> Iterable[Recording]:
    path = Path(item)
    if item.endswith(MANIFESTS) and path.is_file():
        utterances = read_utterances(path)
        if not utterances:
            raise ValueError(f"{item}: holds no recordings")
        for utterance in utterances:
            span = Span(utterance.audio_path, utterance.offset_seconds, utterance.duration_seconds)
            stem = utterance.id.strip("/").replace("..", "_")
            part = _part(stem, span)
            yield Recording(utterance.id, span, part if span.offset_seconds else os.path.splitext(stem)[0], part)
    elif path.is_dir():
        for file in find_audio_files(path):
            inside = file.relative_to(path)
            yield Recording(str(file), Span(file), str(inside.with_suffix("")), str(inside))
    elif not path.exists() and glob.has_magic(item):
        files = sorted(match for match in glob.glob(item, recursive=True) if os.path.isfile(match))
        if not files:
            raise ValueError(f"{item}: no file matches the pattern")
        parts = Path(item).parts
        fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts))
        for match in files:
            inside = Path(match).relative_to(fixed)
            yield Recording(match, Span(match), str(inside.with_suffix("")), str(inside))
    elif path.exists():
        yield Recording(item, Span(path), path.stem, path.name)
    else:
        raise ValueError(f"{item}: no such file or folder")


def _part(stem: str, span: Span) -> str:
    """A name that no other part of the same file has."""
    if span.duration_seconds is None:
        return stem
    return f"{stem if span.offset_seconds else stem + '@0'}+{span.duration_seconds:.10g}"


def output_files(recordings: Sequence[Recording], folder: Path, suffix: str) -> list[Path]:
    """Where the result of each goes; the same for a recording whatever the order, so that a second run finds it.

    Raises:
        ValueError: two recordings of one name.
    """
    counts: dict[str, int] = {}
    for recording in recordings:
        counts[recording.stem] = counts.get(recording.stem, 0) + 1
    targets = [
        folder / f"{recording.stem if counts[recording.stem] == 1 else recording.stem_if_taken}.{suffix}"
        for recording in recordings
    ]
    taken: dict[Path, str] = {}
    for recording, target in zip(recordings, targets, strict=True):
        if target in taken:
            raise ValueError(
                f"{recording.name} and {taken[target]} would both be written to {target}; name another -o for one"
            )
        taken[target] = recording.name
    return targets
