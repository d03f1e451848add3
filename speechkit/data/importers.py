"""Other toolkits' corpora -> `Utterance`s: Kaldi data folders, tables (CSV, TSV), LibriSpeech's layout.

An importer yields an `AudioError` in the place of an utterance whose audio cannot be used, and goes on.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from speechkit.audio import AudioError, read_audio_info
from speechkit.data.manifest import Utterance

_PATH_COLUMNS = ("audio_filepath", "path", "file", "filename", "file_name", "wav", "audio")
_TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
_SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")


def import_kaldi(folder: Path) -> Iterator[Utterance | AudioError]:
    """A Kaldi data folder: `wav.scp` with files (no pipes), optional `segments`, `text`, `utt2spk`.

    Raises:
        ValueError: no wav.scp, an entry that is a command, or a file that breaks Kaldi's format.
    """
    if not (folder / "wav.scp").is_file():
        raise ValueError(f"{folder}: a Kaldi data folder must hold wav.scp")
    recordings = _read_table(folder / "wav.scp")
    for name, location in recordings.items():
        if location.endswith("|"):
            raise ValueError(f"{folder / 'wav.scp'}: {name} is a command, not a file; write its output to a file first")
    texts, speakers = _read_table(folder / "text"), _read_table(folder / "utt2spk")
    segments = _read_table(folder / "segments")
    spans = {name: value.split() for name, value in segments.items()} or {name: [name] for name in recordings}
    for name, (recording, *times) in spans.items():
        if recording not in recordings:
            raise ValueError(f"{folder / 'segments'}: {name} is of recording {recording}, which wav.scp lacks")
        path = folder / recordings[recording]
        try:
            start, end = (float(time) for time in times) if times else (0.0, -1.0)
        except ValueError:
            raise ValueError(f"{folder / 'segments'}: {name} needs a start and an end, got {' '.join(times)}") from None
        if not (end < 0 or start < end):
            yield AudioError(f"{folder / 'segments'}: {name} must end after its start, got {start:g} to {end:g} s")
        else:
            yield _utterance(path, texts.get(name), speakers.get(name), start, end)


def import_table(table: Path) -> Iterator[Utterance | AudioError]:
    """A CSV or TSV file with a header: a column of paths (relative to the table's folder), perhaps of text and speaker,
    perhaps `offset` and `duration`, in seconds, of a part of the file.

    Common names of these columns are known, Common Voice's among them.

    Raises:
        ValueError: no such file, not a table in UTF-8, no column of paths, or a row without a path or with a time that
            is no number.
    """
    if not table.is_file():
        raise ValueError(f"{table}: no such file")
    columns, rows = _read_rows(table)
    path_column = next((name for name in _PATH_COLUMNS if name in columns), None)
    if path_column is None:
        raise ValueError(f"{table}: needs a column of paths ({', '.join(_PATH_COLUMNS)}), got {', '.join(columns)}")
    text_column = next((name for name in _TEXT_COLUMNS if name in columns), None)
    speaker_column = next((name for name in _SPEAKER_COLUMNS if name in columns), None)
    for line, row in rows:
        if not row[path_column]:
            raise ValueError(f"{table}:{line}: has no `{path_column}`")
        path = table.parent / row[path_column]
        if not path.is_file() and (table.parent / "clips" / row[path_column]).is_file():
            path = table.parent / "clips" / row[path_column]  # Common Voice
        text = row[text_column] if text_column else None
        speaker = row[speaker_column] if speaker_column else None
        times = (row["offset"] or 0, row.get("duration") or -1) if "offset" in columns else (0, -1)
        try:
            start, seconds = map(float, times)
        except ValueError:
            raise ValueError(f"{table}:{line}: `offset` and `duration` must be seconds, got {times}") from None
        yield _utterance(path, text, speaker, start, -1.0 if seconds < 0 else start + seconds)


def import_librispeech(folder: Path) -> Iterator[Utterance | AudioError]:
    """LibriSpeech's layout: SPEAKER/CHAPTER/*.trans.txt beside the audio, at any depth.

    Raises:
        ValueError: no transcripts below the folder.
    """
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if not transcripts:
        raise ValueError(f"{folder}: holds no *.trans.txt, so it is not LibriSpeech's layout")
    for transcript in transcripts:
        for name, text in _read_table(transcript).items():
            path = next(
                (
                    file
                    for suffix in ("flac", "opus", "wav")
                    if (file := transcript.parent / f"{name}.{suffix}").is_file()
                ),
                None,
            )
            if path is None:
                yield AudioError(f"{transcript}: {name} has no audio file beside it")
            else:
                yield _utterance(path, text, name.split("-")[0])


IMPORTERS = {"kaldi": import_kaldi, "csv": import_table, "librispeech": import_librispeech}


def _utterance(
    path: Path, text: str | None, speaker: str | None, start: float = 0.0, end: float = -1.0
) -> Utterance | AudioError:
    """Reads the file's header; a negative end is the file's, as in Kaldi's segments."""
    try:
        seconds = read_audio_info(path).duration_seconds
    except AudioError as error:
        return error
    if not 0 <= start < seconds:
        return AudioError(f"{path}: holds no audio at {start:g} s")
    return Utterance(path, (seconds if end < 0 else end) - start, text, speaker, start)


def _read_rows(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """A table's columns, and its rows with their line numbers."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".tsv":  # Common Voice's sentences hold quotes that quote nothing
                rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                rows = csv.DictReader(file)
            return list(rows.fieldnames or []), [(rows.line_num, row) for row in rows]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{table}: must be a table in UTF-8 ({error})") from None


def _read_table(path: Path) -> dict[str, str]:
    """Lines of `key rest`, with spaces or a tab between; nothing where there is no file."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            rows = [line.split(maxsplit=1) for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be text in UTF-8 ({error})") from None
    return {key: "".join(rest).strip() for key, *rest in rows}
