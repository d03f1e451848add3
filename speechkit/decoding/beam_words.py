"""What a prefix says, brought up to date label by label in the kernels of a beam search: words and hotwords."""

from typing import Any

import numba
import numpy as np

from speechkit.decoding.beam_arrays import Array, Prefixes, Tables
from speechkit.decoding.ngram import advance, find_child

SPACE = ROOT = 0  # a character of the alphabet, a node of any trie

_WITHIN: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner = numba.njit(**_WITHIN)  # what only kernels call


@inner
def end_word(tables: Tables, texts: Array, place: int) -> None:
    """Ends the last word of a text, if one has begun: as the likeliest of the words that are written so."""
    text = texts[place]
    if text.word == ROOT:
        return
    trie, hotwords, options = tables.trie, tables.hotwords, tables.options
    first, stop = trie.firsts[text.word], trie.firsts[text.word + 1]
    end, log_prob, lm_state = trie.ends[first], 0.0, text.lm_state
    if text.settled + end > -np.inf and options.has_lm:
        best = -np.inf
        for word in range(first, stop):
            word_log_prob, state = advance(tables.ngram, text.lm_state, trie.word_ids[word])
            score = trie.ends[word] + options.lm_weight * word_log_prob
            if score > best:
                best, end, log_prob, lm_state = score, trie.ends[word], word_log_prob, state
    text.settled += end + options.lm_weight * log_prob
    text.lm_score += log_prob
    text.lm_state = lm_state
    text.hotword_state = hotwords.steps[text.hotword_state, hotwords.columns[SPACE]]
    text.settled += hotwords.completed[text.hotword_state]
    text.ahead = hotwords.in_progress[text.hotword_state]
    text.word = ROOT


@inner
def finish(tables: Tables, prefixes: Prefixes, node: int) -> None:
    """Fills in `finished`."""
    if prefixes.finished[node].word < 0:
        prefixes.finished[node] = prefixes.texts[node]
        end_word(tables, prefixes.finished, np.int64(node))


@inner
def spell(tables: Tables, word: int, label: int) -> int:
    """Where a label leads to from a node of the word trie."""
    labels, trie = tables.labels, tables.trie
    for place in range(labels.stops[label - 1], labels.stops[label]):
        child = find_child(trie.keys, trie.children, word, labels.characters[place])
        word = int(child) if child >= 0 else trie.look_ahead.size - 1
    return word


@inner
def add_label(tables: Tables, texts: Array, at: int, label: int, word: int) -> None:
    """Adds a label, which leads to that node, to a text in which its last word is ended if the label begins one."""
    labels, hotwords = tables.labels, tables.hotwords
    text = texts[at]
    state = text.hotword_state
    for place in range(labels.stops[label - 1], labels.stops[label]):
        state = hotwords.steps[state, hotwords.columns[labels.characters[place]]]
        text.settled += hotwords.completed[state]
    text.word, text.hotword_state = word, state
    text.ahead = tables.trie.look_ahead[word] + hotwords.in_progress[state]
    if labels.are_words:
        end_word(tables, texts, at)
