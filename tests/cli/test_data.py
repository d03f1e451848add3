"""`speechkit data` as a user calls it: exit status, what is printed, what is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from speechkit.cli.main import main
from speechkit.data import read_utterances

SMALL = Path(__file__).parents[1] / "pipelines" / "small.yaml"


@pytest.fixture
def manifest(tmp_path: Path, make_tone: Callable[..., Path]) -> str:
    """Two utterances of half a second at 8 kHz, "a" and "b"."""
    rows = []
    for place, text in enumerate("ab"):
        make_tone(f"{place}.wav", seconds=0.5, rate=8000, seed=place)
        rows.append({"audio_filepath": f"{place}.wav", "text": text})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "m.jsonl")


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_import_goes_on_behind_a_failure(manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("path\n0.wav\nnone.wav\n1.wav\n")
    assert main(["data", "import", "csv", str(tmp_path / "t.csv"), str(tmp_path / "out.jsonl")]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"failed: {tmp_path / 'none.wav'}: no such file\n"
    assert printed.out == f"{tmp_path / 'out.jsonl'}: 2 utterances\n"
    assert [utterance.id for utterance in read_utterances(tmp_path / "out.jsonl")] == ["0.wav", "1.wav"]


@pytest.mark.parametrize("kind", ["kaldi", "csv", "librispeech"])
def test_import_of_nothing_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "import", kind, str(tmp_path / "none"), str(tmp_path / "out.jsonl")]) == 2
    assert error_line(capsys) == f"speechkit data: {tmp_path / 'none'}: no such file or folder"
    assert not list(tmp_path.iterdir())


def test_import_of_which_all_fails_keeps_what_is_there(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("path\nnone.wav\n")
    (tmp_path / "out.jsonl").write_text("what was there")
    assert main(["data", "import", "csv", str(tmp_path / "t.csv"), str(tmp_path / "out.jsonl")]) == 2
    assert "none of its 1 recordings can be used" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == "what was there"


def test_import_into_a_folder_is_refused(manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("path\n0.wav\n")
    (tmp_path / "out").mkdir()
    assert main(["data", "import", "csv", str(tmp_path / "t.csv"), str(tmp_path / "out")]) == 2
    assert f"{tmp_path / 'out'}: is a folder" in error_line(capsys)
    assert not list(tmp_path.glob("*.partial"))


def test_failed_import_leaves_nothing(manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("text,path\nhello,0.wav\nthere\n")
    assert main(["data", "import", "csv", str(tmp_path / "t.csv"), str(tmp_path / "out.jsonl")]) == 2
    assert "t.csv:3: has no `path`" in error_line(capsys)
    assert not list(tmp_path.glob("out.jsonl*"))


def test_check_takes_the_vocabulary_of_the_recipe(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.jsonl").write_text('{"audio_filepath": "missing.wav", "text": "b"}\n')
    monkeypatch.setenv("SPEECHKIT_TEST", str(tmp_path))
    assert main(["data", "check", manifest, "--config", str(SMALL)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "1 errors, 0 notes"
    assert "0.wav: the tokenizer lacks the character(s) 'a'" in printed[0]


@pytest.mark.parametrize("folder", [None, "/nowhere"])
def test_check_takes_the_vocabulary_of_the_manifest(
    folder: str | None, manifest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SPEECHKIT_TEST", raising=False)
    if folder is not None:
        monkeypatch.setenv("SPEECHKIT_TEST", folder)
    assert main(["data", "check", manifest, "--config", str(SMALL)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"note: {manifest}: gives the vocabulary, as the recipe's `data.train` is not at hand",
        f"{manifest}: 2 utterances, 2 with text, 2 without a duration, no speakers named",
        "0 errors, 0 notes",
    ]


def test_check_against_pretraining_is_about_the_rate(manifest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", manifest, "--config", "cpc"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("0.wav: sample rate 8000 Hz, resampled to 16000 Hz")
    assert printed[-1] == "0 errors, 2 notes"


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("trainer: {max_epochs: 3}", "must have `model.front_end`"),
        ("just text", "must map keys to values"),
        ("model: {a: [}", "must be YAML"),
        ("model: {front_end: {class_path: my.FrontEnd}, encoder: {}}", "must lie in a trusted package"),
    ],
)
def test_recipe_that_cannot_be_built_is_one_line(
    recipe: str, expected: str, manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(recipe)
    assert main(["data", "check", manifest, "--config", str(tmp_path / "r.yaml")]) == 2
    assert expected in error_line(capsys)


def test_corpus_is_not_written_over_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus").touch()
    assert main(["data", "synth", str(tmp_path / "corpus")]) == 2
    assert error_line(capsys) == f"speechkit data: {tmp_path / 'corpus'}: is a file, and a corpus is a folder"
