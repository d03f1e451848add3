"""Other toolkits' corpora -> `Utterance`s: Kaldi data folders, tables (CSV, TSV), LibriSpeech's layout."""

import csv
from collections.abc import Iterator
from pathlib import Path

from speechkit.audio import read_audio_info
from speechkit.data.manifest import Utterance

_PATH_COLUMNS = ("audio_filepath", "path", "file", "filename", "file_name", "wav", "audio")
_TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
_SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")


def import_kaldi(folder: Path) -> Iterator[Utterance]:
    """A Kaldi data folder: `wav.scp` with files (no pipes), optional `segments`, `text`, `utt2spk`.

    Raises:
        ValueError: no wav.scp, or an entry that is a command.
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
        path = _resolve(folder, recordings[recording])
        try:
            start, end = (float(time) for time in times) if times else (0.0, -1.0)
        except ValueError:
            raise ValueError(f"{folder / 'segments'}: {name} needs a start and an end, got {' '.join(times)}") from None
        if end < 0:  # Kaldi's way to say: up to the end
            end = read_audio_info(path).duration_seconds
        yield Utterance(path, end - start, texts.get(name), speakers.get(name), start)


def import_table(table: Path) -> Iterator[Utterance]:
    """A CSV or TSV file with a header: a column of paths (relative to the table's folder), perhaps of text and speaker.

    Common names of these columns are known, Common Voice's among them.

    Raises:
        ValueError: no such file, or no column of paths.
    """
    if not table.is_file():
        raise ValueError(f"{table}: no such file")
    with table.open(encoding="utf-8-sig", newline="") as file:
        if table.suffix == ".tsv":  # Common Voice's sentences hold quotes that quote nothing
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        path_column = next((name for name in _PATH_COLUMNS if name in columns), None)
        if path_column is None:
            raise ValueError(f"{table}: needs a column of paths ({', '.join(_PATH_COLUMNS)}), got {', '.join(columns)}")
        text_column = next((name for name in _TEXT_COLUMNS if name in columns), None)
        speaker_column = next((name for name in _SPEAKER_COLUMNS if name in columns), None)
        for row in rows:
            if not row[path_column]:
                raise ValueError(f"{table}:{rows.line_num}: has no `{path_column}`")
            path = _resolve(table.parent, row[path_column])
            if not path.is_file() and (table.parent / "clips" / row[path_column]).is_file():
                path = table.parent / "clips" / row[path_column]  # Common Voice
            duration = read_audio_info(path).duration_seconds
            text = row[text_column] if text_column else None
            yield Utterance(path, duration, text, row[speaker_column] if speaker_column else None)


def import_librispeech(folder: Path) -> Iterator[Utterance]:
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
                raise ValueError(f"{transcript}: {name} has no audio file beside it")
            yield Utterance(path, read_audio_info(path).duration_seconds, text, name.split("-")[0])


IMPORTERS = {"kaldi": import_kaldi, "csv": import_table, "librispeech": import_librispeech}


def _read_table(path: Path) -> dict[str, str]:
    """Lines of `key rest`, with spaces or a tab between; nothing where there is no file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        rows = [line.split(maxsplit=1) for line in file if line.strip()]
    return {key: "".join(rest).strip() for key, *rest in rows}


def _resolve(folder: Path, path: str) -> Path:
    return Path(path) if Path(path).is_absolute() else folder / path
