"""`speechkit lm` as a user calls it: exit status, what is printed, what is written."""

import gzip
import io
import json
import re
import sys
from pathlib import Path

import pytest

from speechkit.cli.main import main
from speechkit.decoding import read_arpa, train_kneser_ney

TEXTS = ["The cat sat on the mat.", "", "The dog sat on the log.", "A cat and a dog."]


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    return str(tmp_path / "text.txt")


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "lm.arpa")


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_train_prints_counts_discounts_and_perplexity(text: str, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lm", "train", text, "-o", out, "--prune", "0", "0", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1-grams: 12, discounts 0.286 1.829 3.000",
        "2-grams: 17, discounts 0.500 1.000 1.500",
        "3-grams: 1 of 16, discounts 0.500 1.000 1.500",
        "training text: perplexity 2.93 over 20 words and ends of sentences",  # 2.92833 by KenLM's `query`
    ]
    assert Path(out).read_text().startswith("\\data\\\nngram 1=12\nngram 2=17\nngram 3=1\n")


def test_every_kind_of_text_gives_the_same_model(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"audio_filepath": "none.wav", "text": line} for line in TEXTS] + [{"audio_filepath": "silence.wav"}]
    for manifest in ("m.jsonl", "nemo.json"):
        (tmp_path / manifest).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "text.gz").write_bytes(gzip.compress("\r\n".join(TEXTS).encode()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO("\n".join(TEXTS).encode()))))
    sources = [text, "-", *(str(tmp_path / name) for name in ("m.jsonl", "nemo.json", "text.gz"))]
    for name, source in enumerate(sources):
        assert main(["lm", "train", source, "-o", str(tmp_path / f"{name}.arpa.gz"), "--order", "2"]) == 0
    models = [gzip.decompress((tmp_path / f"{name}.arpa.gz").read_bytes()) for name in range(len(sources))]
    assert models == [models[0]] * len(sources)
    assert read_arpa(tmp_path / "0.arpa.gz").words == train_kneser_ney(TEXTS, order=2).words


def test_unique_counts_a_sentence_once(text: str, out: str, tmp_path: Path) -> None:
    assert main(["lm", "train", text, text, "-o", out, "--unique"]) == 0
    assert main(["lm", "train", text, "-o", f"{out}.once"]) == 0
    assert Path(out).read_text() == Path(f"{out}.once").read_text()


def test_perplexity_of_another_text(text: str, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.txt").write_text("The zebra sat.\n")
    assert main(["lm", "train", text, "-o", out, "--eval", str(tmp_path / "other.txt")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    expected = r": perplexity (\d+\.\d\d) over 4 words and ends of sentences, (\d+\.\d\d) without the 1 unknown words"
    assert (match := re.fullmatch(re.escape(str(tmp_path / "other.txt")) + expected, last))
    result = train_kneser_ney(TEXTS).perplexity(["the zebra sat"])
    assert [float(value) for value in match.groups()] == pytest.approx(result[:2], abs=0.006)
    assert main(["lm", "perplexity", out, str(tmp_path / "other.txt")]) == 0
    assert capsys.readouterr().out == last.removeprefix(f"{tmp_path / 'other.txt'}: ") + "\n"


def test_mixture_that_suits_a_text(text: str, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.txt").write_text("The zebra sat.\nA zebra ran.\nThe cat ran.\n")
    (tmp_path / "dev.txt").write_text("The zebra sat on the mat.\n")
    assert main(["lm", "train", text, "-o", out]) == 0
    other, mixed = str(tmp_path / "other.arpa"), str(tmp_path / "mixed.arpa.gz")
    assert main(["lm", "train", str(tmp_path / "other.txt"), "-o", other]) == 0
    capsys.readouterr()
    assert main(["lm", "mix", out, other, "--dev", str(tmp_path / "dev.txt"), "-o", mixed]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [f"{out}:", f"{other}:", "perplexity"]
    assert sum(float(line.split()[0]) for line in lines[:2]) == pytest.approx(1.0, abs=1e-3)
    perplexities = [float(re.search(r"perplexity (\S+)", line)[1]) for line in lines]  # type: ignore[index]
    assert perplexities[2] < min(perplexities[:2])
    assert main(["lm", "mix", out, other, "--weights", "0.5", "0.6", "-o", mixed]) == 2
    assert "`weights` must not be negative and must sum to 1, got 0.5, 0.6" in error_line(capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold text, got not a word"),
        (b"\n ?!\n", "must hold text, got not a word"),
        (b"one\ntwo\xff\n", "2: must be UTF-8 text, got b'two\\xff\\n'"),
        (b"RIFF\0\0\0\0WAVE", "1: must be UTF-8 text, got b'RIFF\\x00"),
        (gzip.compress(b"one\n" * 9, mtime=0)[:-9], "must be sound gzip data, got"),
    ],
)
def test_bad_text_is_one_line(
    content: bytes, message: str, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    assert main(["lm", "train", str(tmp_path / "bad.txt"), "-o", out]) == 2
    line = error_line(capsys)
    assert line.startswith(f"speechkit lm: {tmp_path / 'bad.txt'}:")
    assert message in line
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--order", "0"], "`order` must be 1 to 6, got 0."),
        (["--order", "7"], "`order` must be 1 to 6, got 7."),
        (["--prune", "1"], "`prune` must begin with 0 and not fall, got 1."),
        (["--eval", "none.txt"], "none.txt: no such file"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], message: str, text: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lm", "train", text, "-o", out, *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"speechkit lm: {message}"
    assert not Path(out).exists()


def test_output_that_cannot_be_written_is_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lm", "train", text, "-o", str(tmp_path)]) == 2
    assert f"speechkit lm: {tmp_path}: is a folder" in capsys.readouterr().err
    assert main(["lm", "train", text, "-o", f"{text}/lm.arpa"]) == 2
    assert re.search(r"speechkit lm: .*text\.txt.*: ", capsys.readouterr().err)


def test_text_is_not_a_language_model(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lm", "perplexity", text, text]) == 2
    assert "text.txt:5: must be an ARPA file, with a line \\data\\" in error_line(capsys)
