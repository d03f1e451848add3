"""ARPA files as lmplz, SRILM and `write_arpa` write them, millions of n-grams in seconds; others are read line by line.

Every way in which a file can be wrong is told by the reader of lines, in `arpa.py`; here the answer is None.
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit.decoding.ngram import Level, kernel

_HEAD = re.compile(rb"\s*\\data\\\r?\n((?:ngram +\d+ *= *\d+\r?\n)+)\s*")
_LN10 = np.log(10.0)
_POWERS = 10.0 ** np.arange(23)  # each exact in float64
_TAB, _NEWLINE, _RETURN, _SPACE, _PLUS, _MINUS, _POINT, _ZERO, _NINE = b"\t\n\r +-.09"
_EXPONENTS = (ord("e"), ord("E"))


@kernel
def _read_digits(text: NDArray[Any], at: int) -> tuple[int, int]:
    """The integer that begins there, and where it ends; no more of it than float64 holds exactly."""
    value = 0
    while _ZERO <= text[at] <= _NINE and value < 900_000_000_000_000:
        value, at = value * 10 + int(text[at]) - _ZERO, at + 1
    return value, at


@kernel
def _read_number(text: NDArray[Any], at: int) -> tuple[float, int]:
    """A decimal number, correctly rounded, and where it ends; there -1 where none begins."""
    is_negative = text[at] == _MINUS
    at += int(is_negative)
    value, end = _read_digits(text, at)
    num_digits, exponent = end - at, 0
    if text[end] == _POINT:
        at = end + 1
        while _ZERO <= text[at] <= _NINE and value < 900_000_000_000_000:
            value, at, exponent, num_digits = value * 10 + int(text[at]) - _ZERO, at + 1, exponent - 1, num_digits + 1
        end = at
    if num_digits == 0:
        return 0.0, -1
    if text[end] in _EXPONENTS:
        at = end + 1
        sign = -1 if text[at] == _MINUS else 1
        at += int(text[at] == _MINUS or text[at] == _PLUS)
        shift, end = _read_digits(text, at)
        if end == at:
            return 0.0, -1
        exponent += sign * shift
    if abs(exponent) >= len(_POWERS):
        return 0.0, -1
    number = value * _POWERS[exponent] if exponent >= 0 else value / _POWERS[-exponent]
    return -number if is_negative else number, end


@kernel
def _read_word(text: NDArray[Any], at: int, words: NDArray[Any], slots: NDArray[Any]) -> tuple[int, int, int]:
    """The slot of the word that begins there, its place among `words` (W, 2), -1 if it is new, and where it ends."""
    begin, code = at, np.uint64(14695981039346656037)
    while text[at] > _SPACE:
        code = (code ^ np.uint64(text[at])) * np.uint64(1099511628211)  # FNV-1a
        at += 1
    mask = len(slots) - 1
    slot = int(np.int64((code ^ (code >> np.uint64(32))) & np.uint64(mask)))
    while slots[slot] >= 0:
        place = slots[slot]
        first, size = words[place, 0], words[place, 1] - words[place, 0]
        if size == at - begin and np.all(text[first : first + size] == text[begin:at]):
            return slot, place, at
        slot = (slot + 1) & mask
    return slot, -1, at


@kernel
def _parse(
    text: NDArray[Any],
    at: int,
    words: NDArray[Any],
    num_words: int,
    slots: NDArray[Any],
    ids: NDArray[Any],
    values: NDArray[Any],
) -> tuple[int, int]:
    """Lines of n-grams into ids (M, n) and values (M, 2).

    Returns where they end, -1 where one is not as it should be, and how many words are known then; those of order 1
    become known.
    """
    count, order = ids.shape
    for row in range(count):
        if at == len(text):
            return -1, num_words
        values[row, 0], at = _read_number(text, at)
        if at < 0 or values[row, 0] > 0.0:
            return -1, num_words
        for place in range(order):
            if text[at] != _TAB and text[at] != _SPACE:
                return -1, num_words
            begin = at + 1
            slot, word, at = _read_word(text, begin, words, slots)
            if at == begin or (word < 0 and (order > 1 or num_words == len(words))):
                return -1, num_words
            if word < 0:
                slots[slot], word = num_words, num_words
                words[num_words, 0], words[num_words, 1] = begin, at
                num_words += 1
            ids[row, place] = word
        if text[at] == _TAB or text[at] == _SPACE:
            values[row, 1], at = _read_number(text, at + 1)
            if at < 0:
                return -1, num_words
        at += int(text[at] == _RETURN)
        if text[at] != _NEWLINE:
            return -1, num_words
        at += 1
    return at, num_words


def read_regular(content: bytes) -> tuple[list[str], list[Level]] | None:
    """The words and the n-grams of a file in memory, or None where it is not as programs write them."""
    head = _HEAD.match(content)
    if not head or not content.endswith(b"\n"):
        return None
    numbers = [tuple(map(int, re.findall(rb"\d+", line))) for line in head[1].splitlines()]
    is_counted = [order for order, _ in numbers] == list(range(1, len(numbers) + 1))
    if not is_counted or sum(count for _, count in numbers) > len(content):
        return None
    text, at, num_words, levels = np.frombuffer(content, np.uint8), head.end(), 0, []
    words = np.zeros((numbers[0][1], 2), np.int64)
    slots = np.full(1 << (2 * len(words)).bit_length(), -1, np.int32)
    for order, count in numbers:
        title = re.compile(rb"\\%d-grams:\r?\n" % order).match(content, at)
        if not title:
            return None
        ids, values = np.zeros((count, order), np.int32), np.zeros((count, 2))
        at, num_words = _parse(text, title.end(), words, num_words, slots, ids, values)
        if at < 0 or (order == len(numbers) and values[:, 1].any()):
            return None
        at += len(re.compile(rb"\s*").match(content, at)[0])  # type: ignore[index]  # it always matches
        levels.append(Level(ids, *(values * _LN10).astype(np.float32).T.copy()))
    if content[at:].strip() != b"\\end\\":
        return None
    try:
        return [content[first:end].decode() for first, end in words[:num_words]], levels
    except UnicodeDecodeError:
        return None
