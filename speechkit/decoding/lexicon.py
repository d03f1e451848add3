"""The words that may be recognised, and the trie of their characters that a beam search walks."""

import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechkit.decoding.ngram import NGram, find_slot, kernel
from speechkit.text import Tokenizer, normalize_text
from speechkit.text.files import iterate_lines

_NUMBERED = re.compile(r"\(\d+\)$")


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
        """Reads a UTF-8 file, plain or gzip, with a word at the beginning of each line.

        What stands behind a word is not read, so pronouncing dictionaries will do: the number of a further
        pronunciation, as in `word(2)`, is no part of a word, and lines that begin with ;;; or # are none.

        Raises:
            ValueError: no such file, no UTF-8, a line that does not begin with a single word, or no word at all; file
                and line are named.
        """
        words: list[str] = []
        for number, line in enumerate(iterate_lines(path), start=1):
            try:
                first, *_ = [*line.decode().split(), "#"]
                if not first.startswith((";;;", "#")):
                    words += cls([_NUMBERED.sub("", first)]).words
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: must be UTF-8 text ({error.reason})") from None
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
        if not words:
            raise ValueError(f"{path}: must hold at least one word, got none.")
        return cls(words)


class KnownWord(NamedTuple):
    """A word that may be recognised, its id in the language model, and whether a hotword holds it."""

    text: str
    word_id: int
    is_expected: bool = False

    def penalty(self, language_model: NGram, unknown_penalty: float) -> float:
        """What it costs that the language model does not know it: nothing, where it was said to come."""
        return unknown_penalty if self.word_id == language_model.unknown_id and not self.is_expected else 0.0


def find_words(
    tokenizer: Tokenizer, language_model: NGram | None, lexicon: Lexicon | None, hotwords: Iterable[str] = ()
) -> dict[str, list[KnownWord]]:
    """The words that are known, those of the lexicon or else of language model and hotwords, by what labels write.

    That is the word itself, but for phonemes, where several words may be written alike and one in several ways.
    A language model's word goes by its normalised form, so capitals do not matter: of several of one form the likeliest
    counts. The id of a word that the model does not know is that of <unk>; without a model it is 0. Of the hotwords,
    phrases in normal form, a lexicon takes what it has.

    Raises:
        ValueError: the tokenizer cannot spell a word of the lexicon, or no word of the language model.
    """
    expected = {word: None for phrase in hotwords for word in phrase.split()}
    word_ids = {} if language_model is None else language_model.normalized_ids
    spelled = _by_spelling(tokenizer, word_ids, expected)
    if language_model is not None and not spelled:
        raise ValueError(
            "`language_model` must have words that the tokenizer can spell, got one with other tokens: "
            f"{', '.join(map(repr, language_model.words[:5]))} ..."
        )
    unknown_id = 0 if language_model is None else language_model.unknown_id
    if lexicon is not None:
        check_spelling(lexicon, tokenizer)
        return _by_spelling(tokenizer, {word: word_ids.get(word, unknown_id) for word in lexicon.words}, expected)
    if language_model is not None:
        unknown = {word: unknown_id for word in expected if word not in word_ids}
        for spelling, words in _by_spelling(tokenizer, unknown, expected).items():
            spelled.setdefault(spelling, []).extend(words)
    return spelled


def spelled_words(tokenizer: Tokenizer, labels: Sequence[int]) -> list[str]:
    """The words of some labels as they write them: where they are not phonemes, those of `tokenizer.decode`."""
    return [
        "".join(tokenizer.label_text(label) for label in labels[word]).strip() for word in tokenizer.split_words(labels)
    ]


def spell(tokenizer: Tokenizer, word: str) -> list[str]:
    """What labels write for a word, each of its pronunciations where they are phonemes; nothing if they cannot."""
    texts = (spelled_words(tokenizer, labels) for labels in tokenizer.spellings(word))
    return [words[0] for words in texts if len(words) == 1]


def _by_spelling(
    tokenizer: Tokenizer, word_ids: Mapping[str, int], expected: Container[str]
) -> dict[str, list[KnownWord]]:
    known: dict[str, list[KnownWord]] = {}
    for word, word_id in word_ids.items():
        for spelling in spell(tokenizer, word):
            known.setdefault(spelling, []).append(KnownWord(word, word_id, word in expected))
    return known


def check_spelling(lexicon: Lexicon, tokenizer: Tokenizer) -> None:
    """Raises ValueError naming words of a lexicon that the tokenizer cannot spell."""
    unknown = [word for word in lexicon.words if not spell(tokenizer, word)]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ValueError(f"`lexicon`: the tokenizer cannot spell {', '.join(map(repr, unknown[:3]))}{more}.")


class WordScore(NamedTuple):
    """What a word adds to a text's score, beside what the language model says of it in its context."""

    word_id: int  # what the language model calls it
    end: float  # added when the word is finished; -inf if it must not be
    look_ahead: float  # added as long as it has only begun; not more than 0


class WordTrie(NamedTuple):
    """N nodes, each the beginning of words. Node 0 has no character; the last is that of all beginnings not known.

    The W words that end at nodes stand one behind the other, those of a node together; where none ends, an unknown one.
    """

    keys: NDArray[Any]  # (H,) int64, a hash table like that of `NGramTables`: (node << 32) | character, -1 where empty
    children: NDArray[Any]  # (H,) int32
    firsts: NDArray[Any]  # (N + 1,) int64, place of the first word that ends at a node, before that of the next node
    word_ids: NDArray[Any]  # (W,) int32, `WordScore.word_id`
    ends: NDArray[Any]  # (W,) float64, `WordScore.end`
    look_ahead: NDArray[Any]  # (N,) float64, the greatest of the words that begin so
    next_characters: NDArray[Any]  # (N,) uint64, bit c % 64 is set if a character c leads on


def build_word_trie(
    words: Mapping[str, Sequence[WordScore]], unknown: WordScore, alphabet: Mapping[str, int]
) -> WordTrie:
    """Builds the trie.

    Args:
        words: what is written -> the known words that are written so; none is empty, and all characters are in the
            alphabet.
        unknown: what every other word scores.
        alphabet: character -> id.
    """
    spellings = sorted(words)
    characters = np.array([alphabet[character] for spelling in spellings for character in spelling], np.int32)
    stops = np.cumsum([len(spelling) for spelling in spellings], dtype=np.int64)
    look_aheads = np.array([max(score.look_ahead for score in words[spelling]) for spelling in spellings])
    num_nodes = 2 + len({spelling[:end] for spelling in words for end in range(1, len(spelling) + 1)})
    num_slots = 1 << (2 * num_nodes).bit_length()
    keys, children = np.full(num_slots, -1, np.int64), np.zeros(num_slots, np.int32)
    look_ahead, next_characters = np.full(num_nodes, unknown.look_ahead), np.zeros(num_nodes, np.uint64)
    ends = _insert(keys, children, look_ahead, next_characters, characters, stops, look_aheads)
    look_ahead[0] = 0.0
    scores = [[unknown]] * num_nodes
    for node, spelling in zip(ends.tolist(), spellings, strict=True):
        scores[node] = list(words[spelling])
    return WordTrie(
        keys=keys,
        children=children,
        firsts=np.cumsum([0, *map(len, scores)], dtype=np.int64),
        word_ids=np.array([score.word_id for row in scores for score in row], np.int32),
        ends=np.array([score.end for row in scores for score in row], np.float64),
        look_ahead=look_ahead,
        next_characters=next_characters,
    )


@kernel
def _insert(
    keys: NDArray[Any],
    children: NDArray[Any],
    look_ahead: NDArray[Any],
    next_characters: NDArray[Any],
    characters: NDArray[Any],
    stops: NDArray[Any],
    look_aheads: NDArray[Any],
) -> NDArray[Any]:
    """Makes the nodes of all spellings; returns the one at which each ends."""
    num_nodes, start = 1, 0
    ends = np.zeros(stops.size, np.int64)
    for spelling, stop in enumerate(stops):
        node = 0
        for character in characters[start:stop]:
            slot = find_slot(keys, (node << 32) | np.int64(character))
            if keys[slot] < 0:
                keys[slot], children[slot] = (node << 32) | np.int64(character), num_nodes
                next_characters[node] |= np.uint64(1) << np.uint64(character % 64)
                num_nodes += 1
            node = int(children[slot])
            look_ahead[node] = max(look_ahead[node], look_aheads[spelling])
        ends[spelling] = node
        start = stop
    return ends
