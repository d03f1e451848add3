"""Phonemes as labels: dictionaries read, words spelled by their sounds, and sounds brought back to words."""

import gzip
from pathlib import Path

import pytest

from speechkit.bundle import build_tokenizer
from speechkit.parts import build, describe
from speechkit.text import PhonemeTokenizer

LEXICON = """\
;;; a comment
read R EH1 D
read(2) R IY1 D # the present
red R EH1 D
the DH AH0
the(2) DH IY0
tea T IY1

well-known W EH1 L
T T IY1
"""
TEXTS = ["Read the red tea!", "red, red"]


@pytest.fixture
def lexicon(tmp_path: Path) -> str:
    path = tmp_path / "lexicon.txt"
    path.write_text(LEXICON)
    return str(path)


def fitted(lexicon: str, **options: object) -> PhonemeTokenizer:
    tokenizer = PhonemeTokenizer(lexicon, **options)
    tokenizer.fit(TEXTS)
    return tokenizer


def test_words_are_spelled_by_their_first_pronunciation(lexicon: str) -> None:
    tokenizer = fitted(lexicon)
    assert tokenizer.vocab_size == 9  # blank, space, AH D DH EH IY R T
    labels = tokenizer.encode("the TEA")
    assert "".join(map(tokenizer.label_text, labels)) == "DH.AH. T.IY."
    assert [len(found) for found in map(tokenizer.spellings, ("the", "tea", "nothing", "well-known"))] == [2, 1, 0, 0]
    assert tokenizer.encode("") == tokenizer.decode([]).split() == []


def test_of_words_of_one_sound_the_one_is_decoded_that_the_texts_hold_most_often(lexicon: str) -> None:
    tokenizer = fitted(lexicon)
    assert tokenizer.decode(tokenizer.encode("read the tea")) == "red the tea"
    for word in ("read", "red", "the", "tea", "t"):
        labels = tokenizer.encode(word)
        assert tokenizer.encode(tokenizer.decode(labels)) == labels
    present = tokenizer.spellings("read")[1]
    assert tokenizer.decode(present) == "read"  # which no other word sounds like
    assert tokenizer.decode([*tokenizer.encode("red"), 1, *present[:2]]) == "red R.IY."


def test_words_are_split_at_spaces_alone(lexicon: str) -> None:
    tokenizer = fitted(lexicon)
    labels = tokenizer.encode("red the tea")
    assert [tokenizer.decode(labels[word]) for word in tokenizer.split_words(labels)] == ["red", "the", "tea"]


def test_stress_can_be_kept(lexicon: str) -> None:
    tokenizer = fitted(lexicon, stress=True)
    assert "".join(map(tokenizer.label_text, tokenizer.encode("the red"))) == "DH.AH0. R.EH1.D."


def test_own_pronunciations_come_first(lexicon: str) -> None:
    tokenizer = fitted(lexicon, pronunciations={"tea": "CH AY", "Zyx": "Z IH K S"})
    assert "".join(map(tokenizer.label_text, tokenizer.encode("tea zyx"))) == "CH.AY. Z.IH.K.S."
    assert len(tokenizer.spellings("tea")) == 2


def test_description_and_files_make_an_equal_one_without_the_dictionary(lexicon: str) -> None:
    tokenizer = fitted(lexicon, pronunciations={"zyx": "Z IH K S"})
    files = tokenizer.files()
    assert files == tokenizer.files()
    Path(lexicon).unlink()
    copy = build(describe(tokenizer))
    assert copy.vocab_size == 1
    copy.load_files(files)
    assert copy.vocab_size == tokenizer.vocab_size
    assert copy.encode("the red zyx") == tokenizer.encode("the red zyx")
    labels = tokenizer.encode("read the tea")
    assert copy.decode(labels) == tokenizer.decode(labels) == "red the tea"
    with pytest.raises(ValueError, match=r"lexicon\.txt\.gz, the pronouncing dictionary, is missing"):
        build_tokenizer({"tokenizer": describe(tokenizer)}, {}, ("speechkit",))


def test_unknown_words_are_named(lexicon: str) -> None:
    tokenizer = PhonemeTokenizer(lexicon)
    with pytest.raises(ValueError, match="lacks 2 words of the training texts: blue, green; give them in"):
        tokenizer.fit(["the green tea", "blue, blue"])
    with pytest.raises(ValueError, match=r"the lexicon lacks the word\(s\) 'blue' of 'the blue tea'"):
        fitted(lexicon).encode("the blue tea")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"red R EH D\nblue\n", r"lexicon\.txt:2: must be a word and its phonemes, got 'blue'"),
        (b"red R EH D\n\xff\xfe\n", r"lexicon\.txt:2: must be UTF-8 text, got"),
        (gzip.compress(b"red R EH D\n" * 99, mtime=0)[:-8], "must be sound gzip data"),
    ],
)
def test_a_bad_dictionary_is_named_with_its_line(content: bytes, message: str, lexicon: str) -> None:
    Path(lexicon).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fitted(lexicon)
    with pytest.raises(ValueError, match="nowhere: no such file"):
        fitted("nowhere")


def test_the_cmu_dictionary() -> None:
    tokenizer = PhonemeTokenizer(pronunciations={"nightglow": "N AY1 T G L OW2"})
    tokenizer.fit(["Author of the danger trail, Philip Steels, etc."[:40], "nightglow"])
    assert tokenizer.vocab_size == 41  # the blank, the space and 39 phonemes
    assert tokenizer.decode(tokenizer.encode("the nightglow of danger")) == "the nightglow of danger"
    assert len(tokenizer.files()["lexicon.txt.gz"]) < 1_000_000
