"""Manifests: JSON lines as NeMo writes them, and lhotse cuts."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechkit.audio import AudioError
from speechkit.data import Utterance, read_cuts, read_utterances, write_utterances

RATE = 8000


def write_audio(path: Path, seconds: float = 2.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE)), RATE)
    return path


def write_manifest(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_rows_of_nemo_are_read(tmp_path: Path) -> None:
    row = {
        "audio_filepath": "/data/a.wav",
        "duration": 3.25,
        "text": "größe",
        "speaker": 7,
        "offset": 1.5,
        "lang": "de",
    }
    (utterance,) = read_utterances(write_manifest(tmp_path / "m.jsonl", row))
    assert utterance == Utterance(Path("/data/a.wav"), 3.25, "größe", "7", 1.5, "/data/a.wav@1.5")


def test_only_the_path_is_required(tmp_path: Path) -> None:
    (utterance,) = read_utterances(write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "/a.wav"}))
    assert utterance == Utterance(Path("/a.wav"), id="/a.wav")


def test_relative_paths_start_at_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "audio/a.wav"})
    monkeypatch.chdir(tmp_path)
    assert read_utterances(tmp_path / "m.jsonl")[0].audio_path == tmp_path / "audio" / "a.wav"
    assert read_utterances("m.jsonl")[0].audio_path == Path("audio/a.wav")


def test_environment_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPUS", str(tmp_path))
    write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "a.wav"})
    assert read_utterances("$CORPUS/m.jsonl")[0].audio_path == tmp_path / "a.wav"


def test_a_dollar_in_the_name_of_a_recording_is_a_dollar(tmp_path: Path) -> None:
    write_audio(tmp_path / "a$b.wav")
    (cut,) = read_cuts(write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "a$b.wav"}))
    assert cut.recording.sources[0].source == str(tmp_path / "a$b.wav")


@pytest.mark.parametrize("path", ["$CORPUS/m.jsonl", "${CORPUS}/m.jsonl"])
def test_variable_that_is_not_set_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORPUS", raising=False)
    with pytest.raises(ValueError, match="the environment variable CORPUS is not set"):
        read_utterances(path)


def test_empty_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"audio_filepath": "a.wav"}\r\n\r\n{"audio_filepath": "b.wav"}')
    assert [utterance.id for utterance in read_utterances(path)] == ["a.wav", "b.wav"]


@pytest.mark.parametrize("line", ["{broken", "plain text", '{"audio_filepath": "a.wav"', "[1, 2]", "3", "{}"])
def test_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "a.wav"}, line)
    with pytest.raises(ValueError, match=r"m\.jsonl:2: ") as caught:
        read_utterances(path)
    assert "\n" not in str(caught.value)


def test_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"audio_filepath": "a.wav"}\n{"audio_filepath": "b\xff.wav"}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl:2: each line must be a JSON object"):
        read_utterances(path)


@pytest.mark.parametrize("key", ["duration", "offset"])
@pytest.mark.parametrize("value", [-0.5, "3.2", True, float("nan"), float("inf")])
def test_bad_seconds_are_refused(tmp_path: Path, key: str, value: object) -> None:
    path = write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "a.wav", key: value})
    with pytest.raises(ValueError, match=rf"m\.jsonl:1: `{key}` must be seconds, at least 0"):
        read_utterances(path)


@pytest.mark.parametrize("row", [{"audio_filepath": 3}, {"audio_filepath": "a.wav", "text": 3}])
def test_fields_of_another_type_are_refused(tmp_path: Path, row: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"m\.jsonl:1: .* must .* got"):
        read_utterances(write_manifest(tmp_path / "m.jsonl", row))


def test_missing_manifest(tmp_path: Path) -> None:
    for read in (read_utterances, read_cuts):
        for name in ("none.jsonl", "none.jsonl.gz"):
            with pytest.raises(ValueError, match="no such manifest"):
                read(tmp_path / name)


def test_written_manifest_reads_back(tmp_path: Path) -> None:
    utterances = [
        Utterance(tmp_path / "audio" / "a.wav", 1.5, "größe 'x'", "ann", id="audio/a.wav"),
        Utterance(tmp_path / "audio" / "a.wav", 0.5, "", offset_seconds=1.25, id="audio/a.wav@1.25"),
        Utterance(Path("/elsewhere/b.flac"), id="/elsewhere/b.flac"),
    ]
    assert write_utterances(tmp_path / "m.jsonl", utterances) == 3
    assert read_utterances(tmp_path / "m.jsonl") == utterances


def test_written_paths_are_relative_where_they_can_be(tmp_path: Path) -> None:
    write_utterances(tmp_path / "deep" / "m.jsonl", [Utterance(tmp_path / "deep" / "a.wav")])
    assert json.loads((tmp_path / "deep" / "m.jsonl").read_text()) == {"audio_filepath": "a.wav"}


def test_failed_writing_leaves_the_old_manifest(tmp_path: Path) -> None:
    write_utterances(tmp_path / "m.jsonl", [Utterance(tmp_path / "a.wav")])
    with pytest.raises(ZeroDivisionError):
        write_utterances(tmp_path / "m.jsonl", (Utterance(tmp_path / f"{1 // n}.wav") for n in (1, 0)))
    assert [utterance.id for utterance in read_utterances(tmp_path / "m.jsonl")] == ["a.wav"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


def test_manifest_is_not_written_over_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        write_utterances(tmp_path, [Utterance(tmp_path / "a.wav")])
    assert not tmp_path.with_name(tmp_path.name + ".partial").exists()


def test_cuts_have_the_span_text_and_speaker(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    row = {"audio_filepath": "a.wav", "duration": 0.5, "offset": 1.0, "text": "hi", "speaker": "ann"}
    (cut,) = read_cuts(write_manifest(tmp_path / "m.jsonl", row))
    assert (cut.start, cut.duration, cut.recording.duration) == (1.0, 0.5, 2.0)
    assert (cut.supervisions[0].text, cut.supervisions[0].speaker) == ("hi", "ann")


@pytest.mark.parametrize(
    ("row", "duration"),
    [({}, 2.0), ({"offset": 0.5}, 1.5), ({"duration": 9}, 2.0), ({"duration": 9, "offset": 1}, 1.0)],
)
def test_cuts_end_with_the_file(tmp_path: Path, row: dict[str, float], duration: float) -> None:
    write_audio(tmp_path / "a.wav")
    (cut,) = read_cuts(write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "a.wav", **row}))
    assert cut.duration == duration


def test_one_file_may_stand_in_many_rows(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    rows = [{"audio_filepath": "a.wav", "offset": offset, "duration": 0.5} for offset in (0, 0, 0.5, 1)]
    assert [cut.start for cut in read_cuts(write_manifest(tmp_path / "m.jsonl", *rows))] == [0, 0, 0.5, 1]


def test_offset_past_the_end_is_refused(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    path = write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "a.wav", "offset": 2.0})
    with pytest.raises(ValueError, match=r"a\.wav: no audio at offset 2\.0 s"):
        read_cuts(path)


def test_missing_audio_is_found_when_cuts_are_read(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "none.wav"})
    with pytest.raises(AudioError, match=r"none\.wav: no such file"):
        read_cuts(path)


def test_lhotse_cuts_are_read(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    row = {"audio_filepath": "a.wav", "duration": 1.25, "text": "hi"}
    cuts = read_cuts(write_manifest(tmp_path / "m.jsonl", row))
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    (cut,) = read_cuts(tmp_path / "cuts.jsonl.gz")
    assert (cut.duration, cut.supervisions[0].text) == (1.25, "hi")
    assert cut.load_audio().shape == (1, 10_000)


def write_cuts(path: Path, **changes: object) -> Path:
    """One cut of a.wav, the fields of its JSON changed, or left out by none."""
    write_audio(path.parent / "a.wav")
    row = {"audio_filepath": "a.wav", "offset": 0.5, "duration": 1.25, "text": "hi", "speaker": "ann"}
    (cut,) = read_cuts(write_manifest(path.parent / "m.jsonl", row))
    fields = {key: value for key, value in {**cut.to_dict(), **changes}.items() if value is not None}
    path.write_bytes(gzip.compress(json.dumps(fields).encode()))
    return path


def test_lhotse_cuts_are_read_as_utterances(tmp_path: Path) -> None:
    from_cuts = read_utterances(write_cuts(tmp_path / "cuts.jsonl.gz", id="u1"))
    (utterance,) = read_utterances(tmp_path / "m.jsonl")
    assert from_cuts == [replace(utterance, id="u1")]


def test_lhotse_cut_without_one_supervision_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cuts\.jsonl\.gz: u1 must be a cut with one supervision"):
        read_utterances(write_cuts(tmp_path / "cuts.jsonl.gz", id="u1", supervisions=[]))


def test_lhotse_cut_that_is_not_of_a_file_is_named(tmp_path: Path) -> None:
    source = {"type": "command", "channels": [0], "source": "cat a.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": RATE, "num_samples": 2 * RATE, "duration": 2.0}
    with pytest.raises(ValueError, match=r"cuts\.jsonl\.gz: u1 must be of one recording, in one file"):
        read_cuts(write_cuts(tmp_path / "cuts.jsonl.gz", id="u1", recording=recording))
    with pytest.raises(ValueError, match=r"cuts\.jsonl\.gz: u1 must be of one recording, in one file"):
        read_cuts(write_cuts(tmp_path / "cuts.jsonl.gz", id="u1", recording=None))


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b'{"audio_filepath": "a.wav"}\n', mtime=0),
        gzip.compress(b"plain text\n", mtime=0),
        gzip.compress(b"", mtime=0),
        gzip.compress(b"[1, 2]\n", mtime=0),
        gzip.compress(b'{"type": "MonoCut", "id": "u1"}\n', mtime=0),
        b'{"audio_filepath": "a.wav"}\n',
        gzip.compress(b'{"audio_filepath": "a.wav"}\n', mtime=0)[:-8],
    ],
)
def test_file_that_holds_no_cuts_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cuts.jsonl.gz").write_bytes(content)
    for read in (read_utterances, read_cuts):
        with pytest.raises(ValueError, match=r"cuts\.jsonl\.gz: must hold lhotse cuts$"):
            read(tmp_path / "cuts.jsonl.gz")
