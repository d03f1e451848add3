"""The words that may be recognised, and the trie of their characters that a beam search walks."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechkit.decoding.ngram import BEGIN, END, UNKNOWN, NGram, advance, find_slot, kernel
from speechkit.text import Tokenizer, normalize_text


class Lexicon:
    """A closed vocabulary: decoding gives no other words.

    Args:
        words: normalised here as transcripts are; repeated ones count once.

    Raises:
        ValueError: there is none, or one that is not a single word once it is normalised.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words: list[str] = []
        for word in dict.fromkeys(words):
            normalized = normalize_text(word)
            if len(normalized.split()) != 1:
                raise ValueError(f"`words` must be single words, got {word!r}, which is {normalized!r} normalised.")
            self.words.append(normalized)
        self.words = sorted(set(self.words))
        if not self.words:
            raise ValueError("`words` must hold at least one word, got none.")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Lexicon":
        """Reads a UTF-8 file with a word at the beginning of each line; a spelling behind it is not needed.

        Raises:
            ValueError: a line does not begin with a single word, or there is no word at all; the file is named.
        """
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        words = [line.split()[0] for line in lines if line.strip()]
        try:
            return cls(words)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def find_words(tokenizer: Tokenizer, language_model: NGram | None, lexicon: Lexicon | None) -> dict[str, int]:
    """The words that are known: those of the lexicon or else of the language model; word -> its id in the latter.

    A language model's word goes by its normalised form, so capitals do not matter: of several of one form the likeliest
    counts. The id of a word that the model does not know is that of <unk>; without a model it is 0.

    Raises:
        ValueError: the tokenizer cannot spell a word of the lexicon, or no word of the language model.
    """
    word_ids: dict[str, int] = {}
    if language_model is not None:
        ids = range(len(language_model.words))
        for word_id in sorted(ids, key=lambda word_id: -advance(language_model.tables, 0, word_id)[0]):
            word = language_model.words[word_id]
            normalized = normalize_text(word)
            if word not in (BEGIN, END, UNKNOWN) and _is_spelled(tokenizer, normalized):
                word_ids.setdefault(normalized, word_id)
        if not word_ids:
            raise ValueError(
                "`language_model` must have words that the tokenizer can spell, got one with other tokens: "
                f"{', '.join(map(repr, language_model.words[:5]))} ..."
            )
    if lexicon is None:
        return word_ids
    check_spelling(lexicon, tokenizer)
    unknown_id = 0 if language_model is None else language_model.unknown_id
    return {word: word_ids.get(word, unknown_id) for word in lexicon.words}


def check_spelling(lexicon: Lexicon, tokenizer: Tokenizer) -> None:
    """Raises ValueError naming words of a lexicon that the tokenizer cannot spell."""
    unknown = [word for word in lexicon.words if not _is_spelled(tokenizer, word)]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ValueError(f"`lexicon`: the tokenizer cannot spell {', '.join(map(repr, unknown[:3]))}{more}.")


def _is_spelled(tokenizer: Tokenizer, word: str) -> bool:
    try:
        return len(word.split()) == 1 and bool(tokenizer.encode(word))
    except ValueError:
        return False


class WordScore(NamedTuple):
    """What a word adds to a text's score, beside what the language model says of it in its context."""

    word_id: int  # what the language model calls it
    end: float  # added when the word is finished; -inf if it must not be
    look_ahead: float  # added as long as it has only begun; not more than 0


class WordTrie(NamedTuple):
    """N nodes, each the beginning of words. Node 0 has no character; the last is that of all beginnings not known."""

    keys: NDArray[Any]  # (H,) int64, a hash table like that of `NGramTables`: (node << 32) | character, -1 where empty
    children: NDArray[Any]  # (H,) int32
    word_ids: NDArray[Any]  # (N,) int32, `WordScore.word_id` of the word that ends here
    ends: NDArray[Any]  # (N,) float64, `WordScore.end` of that word
    look_ahead: NDArray[Any]  # (N,) float64, the greatest of the words that begin so
    next_characters: NDArray[Any]  # (N,) uint64, bit c % 64 is set if a character c leads on


def build_word_trie(words: Mapping[str, WordScore], unknown: WordScore, alphabet: Mapping[str, int]) -> WordTrie:
    """Builds the trie.

    Args:
        words: the known words, not empty; their characters are in the alphabet.
        unknown: what every other word scores.
        alphabet: character -> id.
    """
    spellings = sorted(words)
    characters = np.array([alphabet[character] for word in spellings for character in word], np.int32)
    stops = np.cumsum([len(word) for word in spellings], dtype=np.int64)
    scores = np.array([words[word] for word in spellings], np.float64).reshape(-1, 3)
    num_nodes = 2 + len({word[:end] for word in words for end in range(1, len(word) + 1)})
    num_slots = 1 << (2 * num_nodes).bit_length()
    trie = WordTrie(
        keys=np.full(num_slots, -1, np.int64),
        children=np.zeros(num_slots, np.int32),
        word_ids=np.full(num_nodes, unknown.word_id, np.int32),
        ends=np.full(num_nodes, unknown.end),
        look_ahead=np.full(num_nodes, unknown.look_ahead),
        next_characters=np.zeros(num_nodes, np.uint64),
    )
    _insert(trie, characters, stops, scores)
    trie.look_ahead[0] = 0.0
    return trie


@kernel
def _insert(trie: WordTrie, characters: NDArray[Any], stops: NDArray[Any], scores: NDArray[Any]) -> None:
    num_nodes, start = 1, 0
    for word, stop in enumerate(stops):
        node = 0
        for character in characters[start:stop]:
            slot = find_slot(trie.keys, (node << 32) | np.int64(character))
            if trie.keys[slot] < 0:
                trie.keys[slot], trie.children[slot] = (node << 32) | np.int64(character), num_nodes
                trie.next_characters[node] |= np.uint64(1) << np.uint64(character % 64)
                num_nodes += 1
            node = int(trie.children[slot])
            trie.look_ahead[node] = max(trie.look_ahead[node], scores[word, 2])
        trie.word_ids[node], trie.ends[node] = np.int32(scores[word, 0]), scores[word, 1]
        start = stop
