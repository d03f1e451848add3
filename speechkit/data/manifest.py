"""Manifests: JSON lines, one utterance a line, as NeMo writes them; held as lhotse cuts for training.

    {"audio_filepath": "audio/a.flac", "duration": 3.2, "text": "hello", "speaker": "ann", "offset": 0.0}

`audio_filepath` is relative to the manifest's folder, `duration` and `offset` in seconds; only the path is required.
A file of lhotse cuts (`*.jsonl.gz`) is read wherever a manifest is.
"""

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechkit.audio import read_audio_info

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut

MANIFESTS = (".jsonl", ".jsonl.gz", ".json")  # how their names end


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest, its path resolved; nothing of the audio was looked at."""

    audio_path: Path
    duration_seconds: float | None = None
    text: str | None = None
    speaker: str | None = None
    offset_seconds: float = 0.0
    id: str = ""


def expand_path(path: str | os.PathLike[str]) -> Path:
    """Expands ~ and environment variables.

    Raises:
        ValueError: a variable that is not set; the message names it.
    """
    text = os.path.expanduser(os.path.expandvars(str(path)))
    if "$" in text:
        name = text.split("$", 1)[1].lstrip("{").split("/")[0].split("}")[0]
        raise ValueError(f"{path}: the environment variable {name} is not set; point it at the folder that is meant")
    return Path(text)


def read_utterances(path: str | os.PathLike[str]) -> list[Utterance]:
    """Reads a manifest, or a file of lhotse cuts.

    Raises:
        ValueError: no such file, or a line or cut that breaks the format; the message names file, place and rule.
    """
    return list(iterate_utterances(path))


def iterate_utterances(path: str | os.PathLike[str]) -> Iterator[Utterance]:
    """As `read_utterances`, one after the other: a manifest of any length takes no memory."""
    target = expand_path(path)
    if not target.is_file():
        raise ValueError(f"{target}: no such manifest")
    yield from _iterate_cuts(target) if target.name.endswith(".jsonl.gz") else _iterate(target)


def write_utterances(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> int:
    """Writes a manifest, with audio paths relative to its folder where they lie below; returns the number of lines.

    Raises:
        ValueError: `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{target}: is a folder, and a manifest is a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder, count = Path(os.path.abspath(target.parent)), 0  # not behind links, which say where a corpus lies
    partial = target.with_name(f".{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for utterance in utterances:
                file.write(json.dumps(_to_row(utterance, folder), ensure_ascii=False) + "\n")
                count += 1
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return count


def read_cuts(path: str | os.PathLike[str]) -> "CutSet":
    """A manifest, or a file of lhotse cuts, as a lhotse `CutSet` held in memory.

    Each file's header is read, so a missing file is found here and not in mid-training.

    Raises:
        ValueError: as `read_utterances`; `AudioError` for a file that is missing or not audio.
    """
    from lhotse import CutSet

    return CutSet.from_cuts(_to_cut(utterance, path) for utterance in read_utterances(path))


def _iterate(path: Path) -> Iterator[Utterance]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield _parse(json.loads(line), path, number)
                except (json.JSONDecodeError, UnicodeDecodeError):
                    start = line.strip()[:60].decode(errors="replace")
                    raise ValueError(f"{path}:{number}: each line must be a JSON object, got {start!r}") from None


def _iterate_cuts(path: Path) -> Iterator[Utterance]:
    for cut in _read_lazily(path):
        if len(getattr(cut, "supervisions", ())) != 1:
            raise ValueError(f"{path}: {cut.id} must be a cut with one supervision")
        recording = getattr(cut, "recording", None)
        if recording is None or [source.type for source in recording.sources] != ["file"] or recording.transforms:
            raise ValueError(f"{path}: {cut.id} must be of one recording, in one file, without transforms")
        if recording.num_channels > 1:
            raise ValueError(
                f"{path}: {cut.id} is of {recording.num_channels} channels; write each to its own file first"
            )
        (supervision,) = cut.supervisions
        audio = Path(recording.sources[0].source)
        yield Utterance(audio, cut.duration, supervision.text, supervision.speaker, cut.start, cut.id)


def _read_lazily(path: Path) -> Iterator[Any]:
    from lhotse import CutSet

    holds_any = False
    try:
        for cut in CutSet.from_jsonl_lazy(path):
            yield cut
            holds_any = True
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError, LookupError):  # lhotse checks nothing
        holds_any = False
    if not holds_any:
        raise ValueError(f"{path}: must hold lhotse cuts")


def _parse(row: Any, path: Path, number: int) -> Utterance:
    if not isinstance(row, dict) or not isinstance(row.get("audio_filepath"), str):
        raise ValueError(f"{path}:{number}: `audio_filepath` must name a file, got {str(row)[:60]}")
    for key in ("duration", "offset"):
        value = row.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value < math.inf):
            raise ValueError(f"{path}:{number}: `{key}` must be seconds, at least 0, got {value!r}")
    text = row.get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{path}:{number}: `text` must be a string, got {text!r}")
    offset = float(row.get("offset") or 0.0)
    speaker = row.get("speaker")
    return Utterance(
        audio_path=path.parent / row["audio_filepath"],
        duration_seconds=row.get("duration"),
        text=text,
        speaker=None if speaker is None else str(speaker),
        offset_seconds=offset,
        id=f"{row['audio_filepath']}@{offset:.10g}" if offset else row["audio_filepath"],
    )


def _to_row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    audio = Path(os.path.abspath(utterance.audio_path))
    row: dict[str, Any] = {"audio_filepath": str(audio.relative_to(folder) if audio.is_relative_to(folder) else audio)}
    if utterance.duration_seconds is not None:
        row["duration"] = round(utterance.duration_seconds, 4)
    if utterance.offset_seconds:
        row["offset"] = round(utterance.offset_seconds, 4)
    row.update({key: value for key in ("text", "speaker") if (value := getattr(utterance, key)) is not None})
    return row


def _to_cut(utterance: Utterance, manifest: str | os.PathLike[str]) -> "MonoCut":
    """The manifest travels with the cut, for messages."""
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

    info = read_audio_info(utterance.audio_path)
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource(type="file", channels=[0], source=str(utterance.audio_path))],
        sampling_rate=info.sample_rate_hz,
        num_samples=info.num_samples,
        duration=info.duration_seconds,
    )
    remaining = info.duration_seconds - utterance.offset_seconds
    duration = remaining if utterance.duration_seconds is None else min(utterance.duration_seconds, remaining)
    if duration <= 0:
        raise ValueError(f"{utterance.audio_path}: no audio at offset {utterance.offset_seconds} s")
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration,
        text=utterance.text,
        speaker=utterance.speaker,
    )
    return MonoCut(
        id=utterance.id,
        start=utterance.offset_seconds,
        duration=duration,
        channel=0,
        recording=recording,
        supervisions=[supervision],
        custom={"manifest": str(manifest)},
    )
