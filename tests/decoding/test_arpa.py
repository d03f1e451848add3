"""ARPA files: what is read is what is written, and every broken line is named."""

import gzip
import math
import re
from pathlib import Path

import numpy as np
import pytest

from speechkit.decoding import read_arpa, train_kneser_ney, write_arpa
from speechkit.decoding.arpa_kernel import read_regular

ARPA = """\\data\\
ngram 1=5
ngram 2=2
ngram 3=1

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.5
-0.7\t</s>
-0.6\ta\t-0.3
-0.9\tb\t-0.2

\\2-grams:
-0.4\t<s> a\t-0.1
-0.2\ta b

\\3-grams:
-0.05\t<s> a b

\\end\\
"""
LINES = ARPA.splitlines()
TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lm.arpa"


def in_log10(values: list[float]) -> list[float]:
    return [value / math.log(10) for value in values]


def test_scores_of_a_file(path: Path) -> None:
    path.write_text(ARPA)
    ngram = read_arpa(path)
    assert (ngram.order, ngram.num_ngrams) == (3, [5, 2, 1])
    assert in_log10(ngram.score(["a", "b", "c"])) == pytest.approx([-0.4, -0.05, -0.2 - 1.5, -0.7])
    assert in_log10(ngram.score(["b", "a"])) == pytest.approx([-0.5 - 0.9, -0.2 - 0.6, -0.3 - 0.7])


@pytest.mark.parametrize(
    "text",
    [
        ARPA.replace("\n", "\r\n"),
        ARPA.replace("\t", " "),
        "# a comment\n\n" + ARPA.replace("\\data\\", "\n\\data\\\n") + "\n\n",
        ARPA.replace("ngram 1=5", "ngram  1 = 5").replace("a b\n\n\\3", "a b\n\\3"),
        ARPA.replace("<unk>", "<UNK>"),
        ARPA.replace("<s> a b", "<s> a b\t0"),
    ],
)
def test_dialects_are_read_alike(text: str, path: Path) -> None:
    path.write_bytes(text.encode())
    assert in_log10(read_arpa(path).score(["a", "b", "c"])) == pytest.approx([-0.4, -0.05, -0.2 - 1.5, -0.7])


def test_gzip_is_read_alike(path: Path) -> None:
    path.write_bytes(gzip.compress(ARPA.encode()))
    assert in_log10(read_arpa(path).score(["a", "b"])) == pytest.approx([-0.4, -0.05, -0.2 - 0.7])


@pytest.mark.parametrize("word", ["größe", "ประเทศ", "a\u00a0b", "\u3000"])
def test_words_may_be_in_any_script(word: str, path: Path) -> None:
    path.write_text(ARPA.replace("\tb", f"\t{word}").replace("a b", f"a {word}"), encoding="utf-8")
    assert in_log10(read_arpa(path).score(["a", word], end=False)) == pytest.approx([-0.4, -0.05])


@pytest.mark.parametrize("name", ["lm.arpa", "folder/lm.arpa.gz"])
def test_what_is_written_is_read_back_exactly(name: str, tmp_path: Path) -> None:
    ngram = train_kneser_ney(TEXTS, prune=[0, 0, 1])
    write_arpa(ngram, tmp_path / name)
    again = read_arpa(tmp_path / name)
    assert again.words == ngram.words
    assert all(map(np.array_equal, again.tables, ngram.tables))
    assert [file.name for file in (tmp_path / name).parent.iterdir()] == [Path(name).name]


@pytest.mark.parametrize(
    "number", ["-1e-05", "-.5", "-2.5E-3", "-0", "-3.", "-1e+1", "-0.30102999", "-12.3456789012345"]
)
def test_quick_and_careful_reading_agree(number: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arpa(train_kneser_ney([*TEXTS, "größe a\u00a0b"]), path)
    text = re.sub(r"ngram 2=(\d+)", lambda match: f"ngram 2={int(match[1]) + 1}", path.read_text("utf-8"))
    text = text.replace("\\2-grams:\n", f"\\2-grams:\n{number}\t</s> <s>\t{number}\n")
    path.write_text(text, "utf-8")
    assert read_regular(text.encode()) is not None
    quick = read_arpa(path)
    monkeypatch.setattr("speechkit.decoding.arpa.read_regular", lambda content: None)
    careful = read_arpa(path)
    assert quick.words == careful.words
    assert all(map(np.array_equal, quick.tables, careful.tables))


@pytest.mark.parametrize("line", ["-0.4  <s> a\t-0.1", "-0.40000000000000000000\t<s> a\t-0.1", "-0.4\t<s> a\t-0.1 "])
def test_unusual_lines_are_left_to_careful_reading(line: str, path: Path) -> None:
    text = "\n".join([*LINES[:13], line, *LINES[14:]]) + "\n"
    path.write_text(text)
    assert read_regular(text.encode()) is None
    assert in_log10(read_arpa(path).score(["a", "b", "c"])) == pytest.approx([-0.4, -0.05, -0.2 - 1.5, -0.7])


def test_written_file_is_in_the_usual_form(path: Path) -> None:
    write_arpa(train_kneser_ney(["a b", "a"], order=2), path)
    lines = path.read_text().splitlines()
    assert lines[:5] == ["\\data\\", "ngram 1=5", "ngram 2=4", "", "\\1-grams:"]
    assert [line.split("\t")[1:] for line in lines[5:7]] == [["<unk>", "0"], ["<s>", "-0.301029996"]]
    assert float(lines[5].split("\t")[0]) == pytest.approx(math.log10(1 / 8))
    assert lines[10:12] == ["", "\\2-grams:"]
    assert [line.split("\t")[1:] for line in lines[12:]] == [["<s> a"], ["a </s>"], ["a b"], ["b </s>"], [], []]
    assert lines[-2:] == ["", "\\end\\"]


def test_folder_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, and a language model is a file"):
        write_arpa(train_kneser_ney(TEXTS), tmp_path)


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (1, "data", "21: must be an ARPA file, with a line \\data\\, got the end of the file"),
        (2, "", "3: must be the count of the 1-grams, got 'ngram 2=2'"),
        (3, "ngram 3=2", "3: must be the count of the 2-grams, got 'ngram 3=2'"),
        (2, "1=5", "2: must be a count such as ngram 1=1000, got '1=5'"),
        (2, "ngram 1=4", "11: must be \\2-grams:, by the counts at the head of the file, got '-0.9\\tb\\t-0.2'"),
        (2, "ngram 1=6", "12: must be one of 6 1-grams, by the counts at the head of the file, got ''"),
        (3, "ngram 2=3", "16: must be one of 3 2-grams, by the counts at the head of the file, got ''"),
        (4, "", "14: a back-off weight must be finite, and the highest order has none, got '-0.4\\t<s> a\\t-0.1'"),
        (6, "\\2-grams:", "6: must be \\1-grams:, by the counts at the head of the file, got '\\\\2-grams:'"),
        (13, "", "14: must be \\2-grams:, by the counts at the head of the file, got '-0.4\\t<s> a\\t-0.1'"),
        (10, "-0,6\ta\t-0.3", "10: log-probability and back-off weight must be numbers, got '-0,6\\ta\\t-0.3'"),
        (10, "-0.6\ta\tx", "10: log-probability and back-off weight must be numbers, got '-0.6\\ta\\tx'"),
        (10, "0.6\ta\t-0.3", "10: a log-probability must be finite and at most 0, got '0.6\\ta\\t-0.3'"),
        (10, "nan\ta\t-0.3", "10: a log-probability must be finite and at most 0, got 'nan\\ta\\t-0.3'"),
        (10, "-inf\ta\t-0.3", "10: a log-probability must be finite and at most 0, got '-inf\\ta\\t-0.3'"),
        (10, "-0.6\ta\tinf", "10: a back-off weight must be finite, and the highest order has none, got '-0.6\\ta\\ti"),
        (18, "-1\t<s> a b\t1", "18: a back-off weight must be finite, and the highest order has none, got '-1\\t<s> a"),
        (10, "-0.6", "10: must be a log-probability, 1 words and perhaps a back-off weight, got '-0.6'"),
        (14, "-0.4\t<s>", "14: must be a log-probability, 2 words and perhaps a back-off weight, got '-0.4\\t<s>'"),
        (15, "-0.2\ta c", "15: every word must be a 1-gram, got '-0.2\\ta c'"),
        (7, "-1.5\tb", "11: every n-gram must stand there once, got 'b'"),
        (15, "-0.2\t<s> a", "15: every n-gram must stand there once, got '<s> a'"),
        (18, "-0.05\tb a b", "18: the first n - 1 words must be an n-gram too, got 'b a b'"),
        (20, "", "21: must be \\end\\, by the counts at the head of the file, got the end of the file"),
        (20, "\\end\\\nmore", "21: must have nothing after \\end\\, got 'more'"),
        (9, "-0.7\tc", " `words` must hold </s>, got 5 words without it."),
    ],
)
def test_broken_file_names_line_and_rule(number: int, line: str, message: str, path: Path) -> None:
    path.write_text("\n".join([*LINES[: number - 1], line, *LINES[number:]]) + "\n")
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}:{message}")):
        read_arpa(path)


@pytest.mark.parametrize("count", range(len(LINES)))
def test_truncated_file_is_refused(count: int, path: Path) -> None:
    path.write_text("".join(line + "\n" for line in LINES[:count]))
    with pytest.raises(ValueError, match=rf"^{path}:{count + 1}: .*, got the end of the file$"):
        read_arpa(path)


def test_truncated_gzip_is_refused(path: Path) -> None:
    path.write_bytes(gzip.compress(ARPA.encode())[:-20])
    with pytest.raises(ValueError, match=rf"^{path}:\d+: must be sound gzip data, got [^\n]+$"):
        read_arpa(path)


def test_bytes_that_are_not_utf8_are_refused(path: Path) -> None:
    path.write_bytes(ARPA.encode().replace(b"\tb\t", b"\t\xff\t"))
    with pytest.raises(ValueError, match=r"lm\.arpa:11: words must be UTF-8, got '-0\.9\\t"):
        read_arpa(path)
