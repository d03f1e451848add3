"""Transcripts as corpora give them -> the form that is trained on and scored."""

import re
import unicodedata

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'"})
_STRAY_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


def normalize_text(text: str) -> str:
    """Lower case, NFKC, no punctuation but apostrophes inside words, single spaces.

    >>> normalize_text("Author of the danger trail, Philip Steels, etc.")
    'author of the danger trail philip steels etc'
    """
    return " ".join(_STRAY_APOSTROPHE.sub(" ", plain_characters(text)).split())


def plain_characters(text: str) -> str:
    """The part of it that looks at each character alone: lower case, NFKC, a space for any other than a word's."""
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).lower()
    return "".join(character if _is_kept(character) else " " for character in text)


def _is_kept(character: str) -> bool:
    """Letters, digits, apostrophes, and the marks without which most scripts of India lose their vowels."""
    return character.isalnum() or character == "'" or unicodedata.category(character).startswith("M")
