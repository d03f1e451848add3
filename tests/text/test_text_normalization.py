"""Transcripts -> the form that is trained on and scored."""

import pytest

from speechkit.text import normalize_text


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Author of the danger trail, Philip Steels, etc.", "author of the danger trail philip steels etc"),
        ("  two\t spaces\n", "two spaces"),
        ("DON'T — don\u2019t; don`t", "don't don't don't"),
        ("'quoted' words' end", "quoted words end"),
        ("well-known snake_case", "well known snake case"),
        ("ﬁne ＡＢＣ ½", "fine abc 1 2"),
        ("Größe, ČESKÝ!", "größe český"),
        ("don\u00b4t \u00b4 a \u00a8 b", "don't a b"),
        ("co\u00adoperate zero\u200bwidth \ufeffmark", "cooperate zerowidth mark"),
        ("\u1ecd\u0300's", "\u1ecd\u0300's"),
        ("", ""),
        ("?!... '", ""),
    ],
)
def test_examples(text: str, normalized: str) -> None:
    assert normalize_text(text) == normalized


@pytest.mark.parametrize("text", ["हिन्दी", "தமிழ்", "ภาษาไทยที่", "עִבְרִית", "中文", "عَرَبِيّ"])
def test_marks_that_scripts_need_are_kept(text: str) -> None:
    assert normalize_text(text) == text


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert normalize_text("Cafe\u0301") == normalize_text("Caf\u00e9") == "caf\u00e9"


@pytest.mark.parametrize("text", ["a''b", "'a' 'b'", "İstanbul", "x'\u0301y", "Ａ’s", "rock'n'roll", "ß'"])
def test_normalizing_twice_changes_nothing(text: str) -> None:
    assert normalize_text(normalize_text(text)) == normalize_text(text)
