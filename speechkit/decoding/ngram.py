"""A back-off n-gram language model (Katz 1987) in flat arrays that compiled decoders walk.

Every n-gram is a node of a trie that is entered at its first word: node 0 is the empty n-gram, and the child of a node
by a word is the n-gram one word longer. The children of all nodes stand in one hash table. A state is the node of the
longest end of the history that can still matter, so two histories of one state have the same future. The n-gram's own
probability, or that of a shorter one after the weights of the contexts that were given up:

    log p(w | h) = log_prob(h w)                       if h w is in the model
                   backoff(h) + log p(w | h[1:])       otherwise, with backoff(h) = 0 if h is not

All logarithms are natural.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from speechkit.text import normalize_text

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
UNSEEN_LOG_PROB = -100.0 * math.log(10.0)  # of <unk> where a model has none, as KenLM has it


class Level(NamedTuple):
    """The n-grams of one order n: ids (M, n) int32 of their words, log-probability and log back-off weight (M,)."""

    ids: NDArray[Any]
    log_probs: NDArray[Any]
    backoffs: NDArray[Any]


class NGramTables(NamedTuple):
    """What a kernel needs of a model: N nodes, ordered by the length of their n-grams, H slots of a hash table."""

    keys: NDArray[Any]  # (H,) int64, open addressing, H a power of two; (node << 32) | word, -1 where empty
    children: NDArray[Any]  # (H,) int32, node of that n-gram
    log_probs: NDArray[Any]  # (N,) float32, of the last word after the others
    backoffs: NDArray[Any]  # (N,) float32, weight of the node as a context, 0 where it has none
    suffixes: NDArray[Any]  # (N,) int32, node of the longest proper end of the n-gram that is in the model
    is_context: NDArray[Any]  # (N,) bool, the node can be a state: longer n-grams begin with it, or it has a weight


class Perplexity(NamedTuple):
    """Of a text, every </s> counted as a word, as KenLM's `query` prints it; `nan` where there is nothing to count."""

    including_unknown: float
    excluding_unknown: float
    num_words: int
    num_unknown: int


class EntryError(ValueError):
    """An n-gram that cannot stand in a model; `order` and `row` say which one of the levels it is."""

    def __init__(self, rule: str, order: int, row: int) -> None:
        super().__init__(f"{rule}, got row {row} of the {order}-grams")
        self.rule, self.order, self.row = rule, order, row


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles at the first call, and keeps the result on disk where some directory can be written."""
    compiled: Any = numba.njit(nogil=True)(function)
    with contextlib.suppress(RuntimeError):  # "no locator available": neither beside this file nor in the user's cache
        compiled.enable_caching()
    result: Callable[..., Any] = compiled
    return result


@kernel
def find_slot(keys: NDArray[Any], key: int) -> np.int64:
    """The slot that holds the key, or the empty one where it belongs."""
    mixed = np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's finalizer, one round
    slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(keys.size - 1))
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & (keys.size - 1)
    return slot


@kernel
def find_child(keys: NDArray[Any], children: NDArray[Any], node: int, word: int) -> np.int32:
    """The node of the n-gram one word longer, -1 where it is not in the model."""
    key = (np.int64(node) << 32) | np.int64(word)
    slot = find_slot(keys, key)
    return children[slot] if keys[slot] == key else np.int32(-1)


@kernel
def advance(tables: NGramTables, state: int, word: int) -> tuple[float, int]:
    """One word further.

    Args:
        tables: of an `NGram`.
        state: node of the history.
        word: id in the model's vocabulary; another id never returns.

    Returns:
        Natural log-probability of the word after the history, and the state after the word.
    """
    log_prob, node = 0.0, np.int32(state)
    child = find_child(tables.keys, tables.children, node, word)
    while child < 0:
        log_prob += tables.backoffs[node]
        node = tables.suffixes[node]
        child = find_child(tables.keys, tables.children, node, word)
    log_prob += tables.log_probs[child]
    while not tables.is_context[child] and child != 0:
        child = tables.suffixes[child]
    return log_prob, child


@kernel
def _score(tables: NGramTables, state: int, words: NDArray[Any], log_probs: NDArray[Any]) -> None:
    for place in range(words.size):
        log_probs[place], state = advance(tables, state, words[place])


@kernel
def _insert(
    tables: NGramTables, first: int, ids: NDArray[Any], log_probs: NDArray[Any], backoffs: NDArray[Any]
) -> tuple[int, bool]:
    """Makes the n-grams of one order nodes `first`, `first` + 1, ...; those of lower orders are there.

    Returns the row of the first n-gram that cannot be inserted, -1 if there is none, and whether it is there already.
    """
    keys, children = tables.keys, tables.children
    for row in range(ids.shape[0]):
        parent = np.int32(0)
        for place in range(ids.shape[1] - 1):
            parent = find_child(keys, children, parent, ids[row, place])
            if parent < 0:
                return row, False
        key, node = (np.int64(parent) << 32) | np.int64(ids[row, -1]), first + row
        slot = find_slot(keys, key)
        if keys[slot] == key:
            return row, True
        suffix = np.int32(0)
        if parent != 0:  # the end of h w is the longest end of h that has w as a child, and w
            context, suffix = tables.suffixes[parent], np.int32(-1)
            while suffix < 0:
                suffix = find_child(keys, children, context, ids[row, -1])
                context = tables.suffixes[context]
        keys[slot], children[slot] = key, node
        tables.log_probs[node], tables.backoffs[node], tables.suffixes[node] = log_probs[row], backoffs[row], suffix
        tables.is_context[parent] = True
        tables.is_context[node] = backoffs[row] != 0.0
    return -1, False


def build_tables(levels: Sequence[Level]) -> NGramTables:
    """Levels of order 1, 2, ... -> tables; every word of a higher level is one of the first.

    Raises:
        EntryError: an n-gram stands there twice, or its first n - 1 words do not stand there.
    """
    num_nodes = 1 + sum(len(level.ids) for level in levels)
    num_slots = 1 << (num_nodes * 3 // 2).bit_length()  # between a third and two thirds of the slots are taken
    tables = NGramTables(
        keys=np.full(num_slots, -1, np.int64),
        children=np.zeros(num_slots, np.int32),
        log_probs=np.zeros(num_nodes, np.float32),
        backoffs=np.zeros(num_nodes, np.float32),
        suffixes=np.zeros(num_nodes, np.int32),
        is_context=np.zeros(num_nodes, np.bool_),
    )
    first = 1
    for order, level in enumerate(levels, start=1):
        row, is_twice = _insert(tables, first, *level)
        if row >= 0:
            rule = "every n-gram must stand there once" if is_twice else "the first n - 1 words must be an n-gram too"
            raise EntryError(rule, order, row)
        first += len(level.ids)
    return tables


class NGram:
    """A back-off n-gram language model over words.

    Args:
        words: the vocabulary, id -> word; with <s> and </s>. <unk> is added at -100 (log10) where it is missing.
        levels: n-grams of order 1, 2, ...; each word is one of the first. An n-gram's first n - 1 words must be in the
            model too, its last n - 1 need not.

    Raises:
        ValueError: <s> or </s> is missing; an n-gram has no prefix or stands there twice (`EntryError`).
    """

    def __init__(self, words: Sequence[str], levels: Sequence[Level]) -> None:
        self.words = list(words)
        levels = list(levels)
        if UNKNOWN not in self.words:
            self.words.append(UNKNOWN)
            ids, log_probs, backoffs = levels[0]
            levels[0] = Level(
                np.append(ids, np.array([[len(self.words) - 1]], ids.dtype), axis=0),
                np.append(log_probs, UNSEEN_LOG_PROB),
                np.append(backoffs, 0.0),
            )
        self.word_ids = {word: place for place, word in enumerate(self.words)}
        for word in (BEGIN, END):
            if word not in self.word_ids:
                raise ValueError(f"`words` must hold {word}, got {len(words)} words without it.")
        self.order = len(levels)
        self.num_ngrams = [len(level.ids) for level in levels]
        self.tables = build_tables(levels)
        self.unknown_id, self.end_id = self.word_ids[UNKNOWN], self.word_ids[END]
        self.begin_state = int(advance(self.tables, 0, self.word_ids[BEGIN])[1])

    def levels(self) -> Iterator[Level]:
        """The n-grams of order 1, 2, ... in the order in which they were given."""
        tables, taken = self.tables, self.tables.keys >= 0
        parents, words = np.zeros((2, len(tables.log_probs)), np.int32)
        parents[tables.children[taken]] = tables.keys[taken] >> 32
        words[tables.children[taken]] = tables.keys[taken] & 0xFFFFFFFF
        ids, first, end = np.zeros((1, 0), np.int32), 0, 1  # of the order before
        for count in self.num_ngrams:
            nodes = slice(end, end + count)
            ids = np.column_stack([ids[parents[nodes] - first], words[nodes]])
            yield Level(ids, tables.log_probs[nodes], tables.backoffs[nodes])
            first, end = end, end + count

    @functools.cached_property
    def normalized_ids(self) -> dict[str, int]:
        """Words in normal form, as transcripts have them -> ids, the likeliest first and of one form the likeliest.

        So a model in capitals knows the words of a transcript. What is not a single word is left out, as are <s>, </s>
        and <unk>.
        """
        likeliest = sorted(range(len(self.words)), key=lambda word_id: -advance(self.tables, 0, word_id)[0])
        found: dict[str, int] = {}
        for word_id in likeliest:
            normalized = normalize_text(self.words[word_id])
            if self.words[word_id] not in (BEGIN, END, UNKNOWN) and len(normalized.split()) == 1:
                found.setdefault(normalized, word_id)
        return found

    def find(self, word: str) -> int:
        """The id of a word, as the model writes it or in normal form; that of <unk> if it has none."""
        found = self.word_ids.get(word)
        return self.normalized_ids.get(word, self.unknown_id) if found is None else found

    def score(self, words: Sequence[str], *, begin: bool = True, end: bool = True) -> list[float]:
        """Natural log-probability of each word after those before it, and of </s>.

        Args:
            words: a sentence; words that `find` does not know count as <unk>.
            begin: the sentence begins here; otherwise nothing is known of what came before.
            end: the sentence ends here: one more value, of </s>.
        """
        if isinstance(words, str):
            raise ValueError(f"`words` must be a sequence of words, got the string {words[:40]!r}.")
        ids = [*map(self.find, words)] + [self.end_id] * end
        log_probs = np.empty(len(ids))
        _score(self.tables, self.begin_state if begin else 0, np.array(ids, np.int32), log_probs)
        values: list[float] = log_probs.tolist()
        return values

    def perplexity(self, texts: Iterable[str]) -> Perplexity:
        """exp of the mean negative log-probability of the words of some sentences, and of their ends."""
        total = total_unknown = 0.0
        num_words = num_unknown = 0
        for text in texts:
            words = text.split()
            log_probs = self.score(words)
            unknown = [
                value for word, value in zip(words, log_probs, strict=False) if self.find(word) == self.unknown_id
            ]
            total, num_words = total + sum(log_probs), num_words + len(log_probs)
            total_unknown, num_unknown = total_unknown + sum(unknown), num_unknown + len(unknown)
        return Perplexity(
            _perplexity(total, num_words),
            _perplexity(total - total_unknown, num_words - num_unknown),
            num_words,
            num_unknown,
        )


def _perplexity(log_prob: float, num_words: int) -> float:
    return math.exp(-log_prob / num_words) if num_words else math.nan
