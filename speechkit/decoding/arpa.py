r"""ARPA files of n-gram language models, as SRILM, KenLM and this package write them.

    \data\
    ngram 1=4
    ngram 2=1

    \1-grams:
    -0.60206	<unk>	0
    ...
    \2-grams:
    -0.30103	<s> hello

    \end\

A line holds log10 p(last word | words before), the words, and the log10 back-off weight where there is one.
"""

import contextlib
import gzip
import math
import os
import re
import sys
import zlib
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np

from speechkit.decoding.arpa_kernel import read_regular
from speechkit.decoding.ngram import UNKNOWN, EntryError, Level, NGram
from speechkit.text.files import GZIP_MAGIC, iterate_lines

_LN10 = math.log(10.0)
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)")


def read_arpa(path: str | os.PathLike[str], content: bytes | None = None) -> NGram:
    """Reads an ARPA file, plain or gzip.

    Args:
        path: of the file, or its name for messages where the content is given.
        content: of a file that is in memory.

    An n-gram's first n - 1 words must be an n-gram of the file too; the last n - 1 need not, as in pruned models.

    Raises:
        ValueError: the file breaks the format; the message names file, line and rule.
    """
    content = _content(path) if content is None else content  # once: a pipe cannot be read again
    regular = read_regular(_unpacked(content or b""))
    if regular is not None:
        with contextlib.suppress(ValueError):  # what is wrong is said below, with its line
            return NGram(_named_as_here(regular[0]), regular[1])
    lines = _Lines(path, content)
    counts = _read_counts(lines)
    word_ids: dict[bytes, int] = {}
    levels, first_lines = [], []
    for order, count in enumerate(counts, start=1):
        lines.check_is(f"\\{order}-grams:")
        first_lines.append(lines.number + 1)
        levels.append(_read_level(lines, order, count, word_ids, is_highest=order == len(counts)))
        lines.skip_empty()
    lines.check_is("\\end\\")
    if lines.skip_empty():
        lines.refuse("must have nothing after \\end\\")
    words = _named_as_here([word.decode() for word in word_ids])
    try:
        return NGram(words, levels)
    except EntryError as error:
        ids = levels[error.order - 1].ids[error.row]
        number, got = first_lines[error.order - 1] + error.row, " ".join(words[i] for i in ids)
        raise ValueError(f"{path}:{number}: {error.rule}, got {got!r}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _content(path: str | os.PathLike[str]) -> bytes | None:
    """Of a file; none where it cannot be read, since reading it line by line says why."""
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    except OSError:
        return None


def _unpacked(content: bytes) -> bytes:
    """Plain; nothing where gzip data is broken, since reading it line by line says where."""
    try:
        return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
    except (OSError, EOFError, zlib.error):
        return b""


def _named_as_here(words: list[str]) -> list[str]:
    """SRILM's <unk> may be written <UNK>."""
    return [UNKNOWN if word == "<UNK>" else word for word in words] if UNKNOWN not in words else words


def write_arpa(ngram: NGram, path: str | os.PathLike[str]) -> None:
    """Writes an ARPA file, gzip where the name ends in .gz, with digits enough to be read back as it is.

    Raises:
        ValueError: `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{target}: is a folder, and a language model is a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with gzip.open(partial, "wb") if target.suffix == ".gz" else partial.open("wb") as file:
            file.writelines(line.encode() for line in _format(ngram))
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _format(ngram: NGram) -> Iterator[str]:
    yield "\\data\\\n"
    for order, count in enumerate(ngram.num_ngrams, start=1):
        yield f"ngram {order}={count}\n"
    for order, level in enumerate(ngram.levels(), start=1):
        yield f"\n\\{order}-grams:\n"
        for ids, *values in zip(level.ids, level.log_probs, level.backoffs, strict=True):
            log_prob, backoff = (float(value) / _LN10 for value in values)
            text = " ".join([ngram.words[i] for i in ids.tolist()])
            yield f"{log_prob:.9g}\t{text}" + (f"\t{backoff:.9g}\n" if order < ngram.order else "\n")
    yield "\n\\end\\\n"


class _Lines:
    """The lines of a file without the space around them; `number` and `text` are those of the last one."""

    def __init__(self, path: str | os.PathLike[str], content: bytes | None) -> None:
        self.path, self.number, self.text, self.is_over = path, 0, b"", False
        self._lines = iterate_lines(path, content)

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.number += 1
            self.text = line.strip()
            yield self.text
        self.number, self.text, self.is_over = self.number + 1, b"", True

    def skip_empty(self) -> bytes:
        """The next line that is not empty, b"" at the end of the file."""
        return next(filter(None, self), b"")

    def check_is(self, text: str) -> None:
        if self.text != text.encode():
            self.refuse(f"must be {text}, by the counts at the head of the file")

    def refuse(self, rule: str) -> NoReturn:
        got = "the end of the file" if self.is_over else repr(self.text[:60].decode(errors="replace"))
        raise ValueError(f"{self.path}:{self.number}: {rule}, got {got}") from None


def _read_counts(lines: _Lines) -> list[int]:
    r"""The head of the file, which may begin with lines of any kind; leaves `lines` at `\1-grams:`."""
    if not any(line == b"\\data\\" for line in lines):
        lines.refuse("must be an ARPA file, with a line \\data\\")
    counts: list[int] = []
    while match := _COUNT.fullmatch(lines.skip_empty()):
        if int(match[1]) != len(counts) + 1:
            lines.refuse(f"must be the count of the {len(counts) + 1}-grams")
        counts.append(int(match[2]))
    if not counts:
        lines.refuse("must be a count such as ngram 1=1000")
    return counts


def _read_level(lines: _Lines, order: int, count: int, word_ids: dict[bytes, int], *, is_highest: bool) -> Level:
    """The n-grams of one order; those of order 1 fill `word_ids`."""
    ids, log_probs, backoffs = array("i"), array("d"), array("d")
    for line in islice(lines, count):
        fields = line.split()
        if len(fields) != order + 1 and len(fields) != order + 2:
            if not line or line.startswith(b"\\"):
                break
            lines.refuse(f"must be a log-probability, {order} words and perhaps a back-off weight")
        try:
            log_prob = float(fields[0])
            backoff = float(fields[order + 1]) if len(fields) == order + 2 else 0.0
        except ValueError:
            lines.refuse("log-probability and back-off weight must be numbers")
        if not -math.inf < log_prob <= 0.0:
            lines.refuse("a log-probability must be finite and at most 0")
        if not math.isfinite(backoff) or (is_highest and backoff != 0.0):
            lines.refuse("a back-off weight must be finite, and the highest order has none")
        log_probs.append(log_prob)
        backoffs.append(backoff)
        try:
            if order == 1:
                fields[1].decode()
                ids.append(word_ids.setdefault(fields[1], len(word_ids)))
            else:
                ids.extend([word_ids[word] for word in fields[1 : order + 1]])
        except UnicodeDecodeError:
            lines.refuse("words must be UTF-8")
        except KeyError:
            lines.refuse("every word must be a 1-gram")
    if len(log_probs) < count:
        lines.refuse(f"must be one of {count} {order}-grams, by the counts at the head of the file")
    log_probs_and_backoffs = ((np.array(values) * _LN10).astype(np.float32) for values in (log_probs, backoffs))
    return Level(np.array(ids, np.int32).reshape(count, order), *log_probs_and_backoffs)
