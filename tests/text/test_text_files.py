"""Lines of text files, plain, compressed, broken, and from standard input."""

import gzip
import io
import sys
from pathlib import Path

import pytest

from speechkit.text.files import iterate_lines

LINES = [b"one\n", b"\n", "zw\u00f6lf\r\n".encode(), b"no end"]


def test_lines_keep_their_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"".join(LINES))
    assert list(iterate_lines(tmp_path / "a.txt")) == LINES


def test_gzip_is_told_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"".join(LINES[:2])) + gzip.compress(b"".join(LINES[2:])))
    assert list(iterate_lines(tmp_path / "a.txt")) == LINES


def test_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert list(iterate_lines(tmp_path / "a.txt")) == []


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_standard_input(compress: type[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(compress(b"a\nb\n")))))
    assert list(iterate_lines("-")) == [b"a\n", b"b\n"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.txt: no such file"):
        next(iterate_lines(tmp_path / "none.txt"))


@pytest.mark.parametrize("damage", ["truncated", "checksum", "header"])
def test_broken_gzip_is_one_line(damage: str, tmp_path: Path) -> None:
    data = gzip.compress(b"a line\n" * 3)
    damaged = {"truncated": data[:-12], "checksum": data[:-8] + bytes(8), "header": data[:2] + bytes(30)}[damage]
    (tmp_path / "a.gz").write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a\.gz:\d: must be sound gzip data, got [^\n]+$"):
        list(iterate_lines(tmp_path / "a.gz"))
