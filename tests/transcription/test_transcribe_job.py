"""`speechkit transcribe`: what is found, what is written, what is skipped, and how failures are told."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from speechkit import Recognizer
from speechkit.cli.main import main
from speechkit.pipelines.recordings import find_recordings, output_files
from speechkit.pipelines.transcribe import transcribe

RATE = 8000
Say = Callable[..., np.ndarray]


@pytest.fixture
def talks(say: Say, tmp_path: Path) -> Path:
    """Five recordings in folders, one of them broken, and a manifest of two parts of one."""
    for name, parts in {
        "a.wav": ["low"],
        "b.flac": ["high"],
        "deep/a.wav": ["high", 0.2, "low"],
        "deep/a.flac": ["low"],
    }.items():
        path = tmp_path / "talks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, say([0.3, *parts, 0.3]), RATE)
    (tmp_path / "talks" / "broken.wav").write_bytes(b"RIFF of nothing")
    soundfile.write(tmp_path / "long.wav", say([0.3, "low", 0.7, "high", 0.3]), RATE)
    rows = [{"audio_filepath": "long.wav", "offset": offset, "duration": 0.8} for offset in (0.0, 0.9)]
    (tmp_path / "parts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def run(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(Recognizer, "load", lambda *arguments, **options: recognizer)
    return lambda *arguments: main(["transcribe", "--model", "it", *map(str, arguments)])


def test_every_kind_of_input(talks: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    (talks / "talks" / "broken.wav").unlink()
    assert run(talks / "talks", talks / "parts.jsonl", f"{talks}/*.wav") == 0
    heard = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert {Path(name).relative_to(talks).as_posix(): text for name, text in heard.items() if name.startswith("/")} == {
        "talks/a.wav": "low",
        "talks/b.flac": "high",
        "talks/deep/a.wav": "high low",
        "talks/deep/a.flac": "low",
        "long.wav": "low high",
    }
    assert sorted(text for name, text in heard.items() if not name.startswith("/")) == ["high", "low"]


def test_one_bad_file_is_named_and_a_second_run_does_nothing_else(
    talks: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = talks / "out"
    assert run(talks / "talks", "-o", out, "--format", "json") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("broken.wav") == 1
    assert "1 of 5 files failed" in said.err
    files = {file.relative_to(out).as_posix(): file for file in out.rglob("*.*")}
    assert sorted(files) == ["a.json", "b.json", "deep/a.flac.json", "deep/a.wav.json"]
    words = json.loads(files["deep/a.wav.json"].read_text())["segments"][0]["words"]
    assert [word["word"] for word in words] == ["high", "low"]
    times = {name: file.stat().st_mtime_ns for name, file in files.items()}
    assert run(talks / "talks", "-o", out, "--format", "json") == 1
    assert "4 of 5 files were done already" in capsys.readouterr().err
    assert {name: file.stat().st_mtime_ns for name, file in files.items()} == times
    assert run(talks / "talks/a.wav", "-o", out, "--format", "json", "--overwrite") == 0
    assert files["a.json"].stat().st_mtime_ns > times["a.json"]


def test_none_done_is_status_two(talks: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(talks / "talks" / "broken.wav") == 2
    assert "1 of 1 files failed" in capsys.readouterr().err


def test_where_all_is_done_no_model_is_loaded(talks: Path, recognizer: Recognizer) -> None:
    recordings = find_recordings([str(talks / "talks" / "a.wav")])
    assert transcribe(lambda: recognizer, recordings, out=talks / "out").done == 1

    def fail() -> Recognizer:
        raise AssertionError("loaded")

    assert transcribe(fail, recordings, out=talks / "out").skipped == 1


def test_an_interruption_keeps_what_is_done(talks: Path, recognizer: Recognizer) -> None:
    recordings = [recording for recording in find_recordings([str(talks / "talks")]) if "broken" not in recording.name]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transcribe(lambda: recognizer, recordings, out=talks / "out", batch_seconds=0.1, on_result=interrupt)
    assert len(list((talks / "out").rglob("*.txt"))) == 1
    tally = transcribe(lambda: recognizer, recordings, out=talks / "out")
    assert (tally.done, tally.skipped, tally.failed) == (3, 1, 0)


def test_names_do_not_depend_on_the_order(talks: Path) -> None:
    recordings = find_recordings([str(talks / "talks")])
    forward = dict(zip(recordings, output_files(recordings, Path("out"), "txt"), strict=True))
    backward = dict(zip(recordings[::-1], output_files(recordings[::-1], Path("out"), "txt"), strict=True))
    assert forward == backward
    assert len(set(forward.values())) == 5


def test_parts_of_one_file_are_told_apart(talks: Path) -> None:
    rows: list[dict[str, object]] = [
        {"audio_filepath": "long.wav"},
        {"audio_filepath": "long.wav", "duration": 0.6},
        {"audio_filepath": "long.wav", "offset": 0.7},
        {"audio_filepath": "long.wav", "offset": 0.7, "duration": 0.5},
    ]
    manifest = talks / "many.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    recordings = find_recordings([str(manifest)])
    names = [target.name for target in output_files(recordings, Path("out"), "txt")]
    assert names == ["long.wav.txt", "long.wav@0+0.6.txt", "long.wav@0.7.txt", "long.wav@0.7+0.5.txt"]
    manifest.write_text(json.dumps(rows[2]))
    assert [target.name for target in output_files(find_recordings([str(manifest)]), Path("out"), "txt")] == [names[2]]


def test_a_pattern_keeps_its_folders(talks: Path, run: Callable[..., int]) -> None:
    assert run(f"{talks}/talks/**/a.wav", "-o", talks / "out") == 0
    files = sorted(file.relative_to(talks / "out").as_posix() for file in (talks / "out").rglob("*.txt"))
    assert files == ["a.txt", "deep/a.txt"]


def test_two_recordings_of_one_name_are_refused(
    talks: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(talks / "talks/a.wav", talks / "talks/deep/a.wav", "-o", talks / "out") == 2
    assert "would both be written to" in capsys.readouterr().err


def test_subtitles_of_several_are_not_printed(
    talks: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("srt", "vtt", "tsv"):
        assert run(talks / "talks", "--format", kind) == 2
        assert "give -o DIR" in capsys.readouterr().err


@pytest.mark.parametrize("item", ["nothing.wav", "nothing/*.wav"])
def test_what_is_not_there(run: Callable[..., int], item: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(item) == 2
    assert item in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(talks: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    (talks / "file").touch()
    assert run(talks / "talks", "-o", talks / "file" / "out") == 2
    assert f"{talks}/file/out: not a directory" in capsys.readouterr().err
    assert run(talks / "talks", "-o", talks / "file") == 2
    assert f"{talks}/file: must be a folder" in capsys.readouterr().err


def test_no_text_at_all(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a.wav", "--nbest", "0") == 2
    assert "--nbest must be at least 1, got 0" in capsys.readouterr().err


def test_an_empty_manifest(talks: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    (talks / "empty.jsonl").touch()
    assert run(talks / "empty.jsonl") == 2
    assert "empty.jsonl: holds no recordings" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["wav", "pcm"])
def test_standard_input(
    say: Say, run: Callable[..., int], kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = io.BytesIO()
    samples = say([0.5, "low", 0.4, "high", 1.6, "low", 0.3])
    if kind == "wav":
        soundfile.write(content, samples, RATE, format="WAV")
    else:
        content.write((samples * 32767).astype("<i2").tobytes())
    content.seek(0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
    assert run("-", "--format", "json") == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["text"] for result in results if result["type"] == "final"] == ["low high", "low"]
    assert len(results[-1]["words"]) == 1


def test_standard_input_is_alone(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-", "a.wav") == 2
    assert "must be the only input" in capsys.readouterr().err
    assert run("-", "--format", "srt") == 2
    assert "needs a whole recording" in capsys.readouterr().err
    assert run("-", "-o", "out") == 2
    assert "-o must stand without `-`" in capsys.readouterr().err
    assert run("-", "--pcm-rate", "0") == 2
    assert "--pcm-rate must be positive, got 0" in capsys.readouterr().err


def test_compressed_standard_input(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"fLaC" + bytes(100))))
    assert run("-") == 2
    assert "-: audio of another format (b'fLaC'); pipe WAV or raw PCM" in capsys.readouterr().err


def test_ctrl_c_ends_a_microphone_with_its_last_words(
    talks: Path, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (talks / "long.wav").read_bytes()

    class Microphone(io.BytesIO):
        """All that was said, then Ctrl-C."""

        def read(self, size: int | None = -1) -> bytes:
            if not (found := super().read(size)):
                raise KeyboardInterrupt
            return found

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert run("-") == 0
    expected = [line for line in capsys.readouterr().out.splitlines() if line.startswith("final")]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Microphone(content[:-64])))
    assert run("-") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("final")] == expected


def test_a_name_too_long_for_its_result_fails_alone(talks: Path, recognizer: Recognizer) -> None:
    long = talks / f"{'字' * 83}.wav"  # 253 bytes of 255
    (talks / "long.wav").rename(long)
    recordings = find_recordings([str(long), str(talks / "talks" / "a.wav")])
    recordings[0] = recordings[0]._replace(stem=recordings[0].stem + "字")
    failed: list[str | None] = []
    tally = transcribe(
        lambda: recognizer, recordings, out=talks / "out", on_result=lambda _, result: failed.append(result.error)
    )
    assert (tally.done, tally.failed) == (1, 1)
    assert sum("file name too long" in (reason or "") for reason in failed) == 1
    assert [path.name for path in (talks / "out").iterdir()] == ["a.txt"]


def test_what_is_older_than_its_recording_is_done_again(talks: Path, recognizer: Recognizer) -> None:
    recordings = find_recordings([str(talks / "long.wav")])
    assert transcribe(lambda: recognizer, recordings, out=talks / "out").done == 1
    assert transcribe(lambda: recognizer, recordings, out=talks / "out").skipped == 1
    os.utime(talks / "long.wav", (2e9, 2e9))
    assert transcribe(lambda: recognizer, recordings, out=talks / "out").done == 1


def test_manifests_of_nemo_and_variables(talks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (talks / "nemo.json").write_text('{"audio_filepath": "long.wav"}\n')
    monkeypatch.setenv("TALKS", str(talks))
    assert [recording.name for recording in find_recordings(["$TALKS/nemo.json"])] == ["long.wav"]
    with pytest.raises(ValueError, match="NO_SUCH_FOLDER is not set"):
        find_recordings(["$NO_SUCH_FOLDER/nemo.json"])


def test_results_of_silent_recordings_do_not_wait(talks: Path, recognizer: Recognizer) -> None:
    silent = [np.zeros(RATE, dtype=np.float32)] * 100
    read = []

    class Counted(list):
        """Notes what is asked for."""

        def __getitem__(self, place: int) -> np.ndarray:  # type: ignore[override]
            read.append(place)
            return super().__getitem__(place)

    first = next(recognizer.transcribe_iter(Counted(silent)))
    assert first[1].text == ""
    assert len(read) < 100


def test_one_path_is_no_list(recognizer: Recognizer) -> None:
    with pytest.raises(ValueError, match=r"`inputs` must be a list of recordings, got 'a\.wav' alone"):
        recognizer.transcribe("a.wav")
    with pytest.raises(ValueError, match="`inputs` must be a list of recordings, got one array alone"):
        recognizer.transcribe(np.zeros(RATE, dtype=np.float32))
    with pytest.raises(ValueError, match="`sample_rate_hz` must be positive, got 0"):
        recognizer.transcribe([np.zeros(RATE, dtype=np.float32)], sample_rate_hz=0)
