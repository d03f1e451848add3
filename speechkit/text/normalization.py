"""Transcripts as corpora give them -> the form that is trained on and scored."""

import re
import unicodedata

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'"})
_NOT_WORD = re.compile(r"[^\w'\s]|_", flags=re.UNICODE)
_STRAY_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


def normalize_text(text: str) -> str:
    """Lower case, NFKC, no punctuation but apostrophes inside words, single spaces.

    >>> normalize_text("Author of the danger trail, Philip Steels, etc.")
    'author of the danger trail philip steels etc'
    """
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).lower()
    text = _STRAY_APOSTROPHE.sub(" ", _NOT_WORD.sub(" ", text))
    return " ".join(text.split())
