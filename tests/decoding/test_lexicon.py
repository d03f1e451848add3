"""Lexicons from words and from files."""

from pathlib import Path

import numpy as np
import pytest

from speechkit.decoding import Lexicon
from speechkit.decoding.lexicon import WordScore, WordTrie, build_word_trie
from speechkit.decoding.ngram import find_child

ALPHABET = {character: place for place, character in enumerate(" abc")}
UNKNOWN = WordScore(9, -3.0, -4.0)


def walk(trie: WordTrie, beginning: str) -> int:
    node = 0
    for character in beginning:
        node = int(find_child(trie.keys, trie.children, node, ALPHABET[character]))
    return node


def words_at(trie: WordTrie, node: int) -> list[tuple[int, float]]:
    places = range(trie.firsts[node], trie.firsts[node + 1])
    return [(trie.word_ids[place], trie.ends[place]) for place in places]


def test_words_are_normalized_sorted_and_count_once() -> None:
    assert Lexicon(["The", "cat's", "the", "CAT’S"]).words == ["cat's", "the"]


def test_file_gives_the_first_word_of_each_line(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(";;; words\n# more\nthe\tt h e |\nTHE(2) th i |\n\ncat c a t |\nGröße\n", encoding="utf-8")
    assert Lexicon.read(path).words == ["cat", "größe", "the"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "`words` must hold at least one word"),
        (["well-known"], "`words` must be single words, got 'well-known', which is 'well known' normalised"),
        (["ok", "?"], r"`words` must be single words, got '\?'"),
    ],
)
def test_what_is_no_word_is_refused_and_the_file_named(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Lexicon(words)
    (tmp_path / "words.txt").write_text("\n".join(words))
    if not words:
        message = "must hold at least one word, got none"
    with pytest.raises(ValueError, match=rf"words\.txt(:{len(words)})?: {message}"):
        Lexicon.read(tmp_path / "words.txt")


def test_trie_knows_words_and_the_best_of_their_beginnings() -> None:
    words = {"ab": WordScore(1, 0.5, -2.0), "abc": WordScore(2, 0.5, -1.0), "b": WordScore(3, -0.5, -3.0)}
    trie = build_word_trie({word: [score] for word, score in words.items()}, UNKNOWN, ALPHABET)
    assert len(trie.look_ahead) == 6  # "", a, ab, abc, b, unknown
    for word, score in words.items():
        assert words_at(trie, walk(trie, word)) == [score[:2]]
    assert [trie.look_ahead[walk(trie, text)] for text in ("", "a", "ab", "abc", "b")] == [0.0, -1.0, -1.0, -1.0, -3.0]
    assert [trie.next_characters[walk(trie, text)] for text in ("", "a", "ab", "abc")] == [0b110, 0b100, 0b1000, 0]
    for node in (walk(trie, "a"), 5):
        assert words_at(trie, node) == [UNKNOWN[:2]]
    assert trie.look_ahead[-1] == UNKNOWN.look_ahead
    assert walk(trie, "a" + "a") == -1


def test_trie_keeps_words_that_are_written_alike_together() -> None:
    words = {"ab": [WordScore(1, 0.5, -2.0), WordScore(4, 0.25, -1.5)], "b": [WordScore(3, -0.5, -3.0)]}
    trie = build_word_trie(words, UNKNOWN, ALPHABET)
    assert words_at(trie, walk(trie, "ab")) == [(1, 0.5), (4, 0.25)]
    assert words_at(trie, walk(trie, "b")) == [(3, -0.5)]
    assert trie.look_ahead[walk(trie, "a")] == -1.5


def test_trie_without_words_is_that_of_unknown_ones() -> None:
    trie = build_word_trie({}, UNKNOWN, ALPHABET)
    np.testing.assert_array_equal(trie.look_ahead, [0.0, UNKNOWN.look_ahead])
