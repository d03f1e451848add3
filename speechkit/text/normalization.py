"""Transcripts as corpora give them -> the form that is trained on and scored."""

import re
import unicodedata

_APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u2018\u02bc\u00b4`"), "'")
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))  # soft hyphens, joiners: they part no words
_REPLACED = str.maketrans({**_APOSTROPHES, **_UNSEEN})
_STRAY_APOSTROPHE = re.compile(r"(?<![^\s'])'|'(?![^\s'])")  # of what `plain_characters` leaves


def normalize_text(text: str) -> str:
    """Lower case, NFKC, no punctuation but apostrophes inside words, single spaces.

    >>> normalize_text("Author of the danger trail, Philip Steels, etc.")
    'author of the danger trail philip steels etc'
    """
    words = _STRAY_APOSTROPHE.sub(" ", plain_characters(text)).split()
    return " ".join(words if text.isascii() else filter(None, map(_without_stray_marks, words)))


def plain_characters(text: str) -> str:
    """The part of it that looks at each character alone: lower case, NFKC, a space for any other than a word's."""
    text = unicodedata.normalize("NFKC", text.translate(_REPLACED)).translate(_REPLACED).lower()
    return "".join(character if _is_kept(character) else " " for character in text)


def _is_kept(character: str) -> bool:
    """Letters, digits, apostrophes, and the marks without which most scripts of India lose their vowels."""
    return character.isalnum() or character == "'" or _is_mark(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _without_stray_marks(word: str) -> str:
    """Accents that stand alone, such as the rest of a diaeresis, belong to no letter."""
    while word and _is_mark(word[0]):
        word = word[1:]
    return word
