"""Other toolkits' corpora -> utterances."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechkit.audio import AudioError
from speechkit.data import Utterance, read_utterances, write_utterances
from speechkit.data.importers import import_kaldi, import_librispeech, import_table

RATE = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a.wav of one second, b.wav of two."""
    for name, seconds in (("a", 1), ("b", 2)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(seconds * RATE, 0.1), RATE)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_kaldi_without_segments(folder: Path) -> None:
    write(folder / "wav.scp", f"utt-a a.wav\nutt-b {folder}/b.wav\n")
    write(folder / "text", "utt-a hello  there\nutt-b größe\n")
    write(folder / "utt2spk", "utt-a ann\nutt-b bob\n")
    assert list(import_kaldi(folder)) == [
        Utterance(folder / "a.wav", 1.0, "hello  there", "ann"),
        Utterance(folder / "b.wav", 2.0, "größe", "bob"),
    ]


def test_kaldi_with_segments(folder: Path) -> None:
    write(folder / "wav.scp", "rec b.wav\n")
    write(folder / "segments", "u1 rec 0.25 1.0\nu2 rec 1.5 -1\n")
    write(folder / "text", "u1 one\n")
    assert list(import_kaldi(folder)) == [
        Utterance(folder / "b.wav", 0.75, "one", None, 0.25),
        Utterance(folder / "b.wav", 0.5, None, None, 1.5),
    ]


def test_kaldi_with_tabs_and_spaces_in_paths(folder: Path) -> None:
    (folder / "a.wav").rename(folder / "my a.wav")
    write(folder / "wav.scp", "utt-a\tmy a.wav\n")
    write(folder / "text", "utt-a\thello there\n\n")
    assert list(import_kaldi(folder)) == [Utterance(folder / "my a.wav", 1.0, "hello there")]


def test_kaldi_command_is_refused(folder: Path) -> None:
    write(folder / "wav.scp", "utt-a a.wav\nutt-b sph2pipe -f wav b.sph |\n")
    with pytest.raises(ValueError, match=r"wav\.scp: utt-b is a command"):
        list(import_kaldi(folder))


def test_kaldi_needs_wav_scp(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold wav\.scp"):
        list(import_kaldi(tmp_path))


@pytest.mark.parametrize(
    ("segment", "reason"),
    [("u1 other 0 1", "which wav.scp lacks"), ("u1 rec 0", "a start and an end, got 0"), ("u1 rec 0 x", "got 0 x")],
)
def test_kaldi_bad_segment_is_named(folder: Path, segment: str, reason: str) -> None:
    write(folder / "wav.scp", "rec b.wav\n")
    write(folder / "segments", segment + "\n")
    with pytest.raises(ValueError, match=rf"segments: u1 .*{reason}"):
        list(import_kaldi(folder))


@pytest.mark.parametrize(
    "header", ["path,sentence,client_id", "audio_filepath,text,speaker", "file_name,transcription,speaker_id"]
)
def test_csv_with_common_names_of_columns(folder: Path, header: str) -> None:
    table = write(folder / "t.csv", f'{header}\na.wav,"hello, there",ann\n')
    assert list(import_table(table)) == [Utterance(folder / "a.wav", 1.0, "hello, there", "ann")]


def test_csv_with_parts_of_files(folder: Path) -> None:
    table = write(folder / "t.csv", "path,offset,duration\nb.wav,0.5,1\nb.wav,1.5,\nb.wav,,\n")
    path = folder / "b.wav"
    assert list(import_table(table)) == [
        Utterance(path, 1.0, offset_seconds=0.5),
        Utterance(path, 0.5, offset_seconds=1.5),
        Utterance(path, 2.0),
    ]
    with pytest.raises(ValueError, match=r"t\.csv:2: `offset` and `duration` must be seconds, got \('0:30'"):
        list(import_table(write(folder / "t.csv", "path,offset\nb.wav,0:30\n")))


def test_kaldi_with_a_byte_order_mark(folder: Path) -> None:
    write(folder / "wav.scp", "\ufeffu1 a.wav\n")
    write(folder / "text", "\ufeffu1 hello\n")
    assert list(import_kaldi(folder)) == [Utterance(folder / "a.wav", 1.0, "hello")]


def test_csv_of_paths_alone(folder: Path) -> None:
    table = write(folder / "t.csv", "\ufeffpath\na.wav\nb.wav\n")
    assert list(import_table(table)) == [Utterance(folder / "a.wav", 1.0), Utterance(folder / "b.wav", 2.0)]


def test_common_voice(folder: Path) -> None:
    (folder / "clips").mkdir()
    (folder / "a.wav").rename(folder / "clips" / "a.wav")
    (folder / "b.wav").rename(folder / "clips" / "b.wav")
    rows = 'client_id\tpath\tsentence\tup_votes\nann\ta.wav\t"Stop, he said.\t2\nbob\tb.wav\tGo, "now".\t2\n'
    assert list(import_table(write(folder / "validated.tsv", rows))) == [
        Utterance(folder / "clips" / "a.wav", 1.0, '"Stop, he said.', "ann"),
        Utterance(folder / "clips" / "b.wav", 2.0, 'Go, "now".', "bob"),
    ]


def test_table_without_paths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t\.csv: needs a column of paths .* got id, words"):
        list(import_table(write(tmp_path / "t.csv", "id,words\n1,hello\n")))


def test_table_row_without_a_path_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"t\.csv:3: has no `path`"):
        list(import_table(write(folder / "t.csv", "text,path\nhello,a.wav\nthere\n")))


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv: no such file"):
        list(import_table(tmp_path / "none.csv"))


def test_audio_that_a_table_names_and_is_missing_fails_alone(folder: Path) -> None:
    failure, utterance = import_table(write(folder / "t.csv", "path\nnone.wav\na.wav\n"))
    assert isinstance(failure, AudioError)
    assert str(failure) == f"{folder / 'none.wav'}: no such file"
    assert utterance == Utterance(folder / "a.wav", 1.0)


@pytest.mark.parametrize("content", [b"path,text\na.wav,gr\xf6\xdfe\n", b"path,text\na.wav," + b"x" * 200_000])
def test_table_that_is_not_one_is_refused(folder: Path, content: bytes) -> None:
    (folder / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv: must be a table in UTF-8 \([^\n]*\)$"):
        list(import_table(folder / "t.csv"))


def test_kaldi_text_that_is_not_utf8_is_refused(folder: Path) -> None:
    write(folder / "wav.scp", "utt-a a.wav\n")
    (folder / "text").write_bytes(b"utt-a gr\xf6\xdfe\n")
    with pytest.raises(ValueError, match=r"/text: must be text in UTF-8"):
        list(import_kaldi(folder))


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        ("1.0 0.5", "segments: u1 must end after its start, got 1 to 0.5 s"),
        ("1.0 1.0", "segments: u1 must end after its start, got 1 to 1 s"),
        ("0 nan", "segments: u1 must end after its start, got 0 to nan s"),
        ("2.5 3", "b.wav: holds no audio at 2.5 s"),
        ("-2 1", "b.wav: holds no audio at -2 s"),
    ],
)
def test_kaldi_segment_without_audio_fails_alone(folder: Path, segment: str, reason: str) -> None:
    write(folder / "wav.scp", "rec b.wav\n")
    write(folder / "segments", f"u1 rec {segment}\nu2 rec 1.5 -1\n")
    failure, utterance = import_kaldi(folder)
    assert isinstance(failure, AudioError)
    assert str(failure).endswith(reason)
    assert utterance == Utterance(folder / "b.wav", 0.5, None, None, 1.5)


def test_librispeech(tmp_path: Path) -> None:
    chapter = tmp_path / "dev-clean" / "84" / "121"
    write(chapter / "84-121.trans.txt", "84-121-0000 GO ON\n84-121-0001 STOP\n")
    for number, suffix in ((0, "flac"), (1, "wav")):
        soundfile.write(chapter / f"84-121-000{number}.{suffix}", np.full(RATE, 0.1), RATE)
    assert list(import_librispeech(tmp_path)) == [
        Utterance(chapter / "84-121-0000.flac", 1.0, "GO ON", "84"),
        Utterance(chapter / "84-121-0001.wav", 1.0, "STOP", "84"),
    ]


def test_librispeech_without_audio_fails(tmp_path: Path) -> None:
    write(tmp_path / "84" / "84-121.trans.txt", "84-121-0000 GO ON\n")
    (failure,) = import_librispeech(tmp_path)
    assert isinstance(failure, AudioError)
    assert str(failure).endswith("84-121.trans.txt: 84-121-0000 has no audio file beside it")


def test_folder_that_is_not_librispeech_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \*\.trans\.txt"):
        list(import_librispeech(tmp_path))


def test_imported_corpus_is_a_manifest(folder: Path) -> None:
    write(folder / "wav.scp", "utt-a a.wav\n")
    write_utterances(folder / "m.jsonl", import_kaldi(folder))
    assert read_utterances(folder / "m.jsonl") == [Utterance(folder / "a.wav", 1.0, id="a.wav")]
