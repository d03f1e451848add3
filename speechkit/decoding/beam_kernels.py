"""CTC prefix beam search on a CPU: `prefix_beam_reference` in machine code, compiled by Numba at the first call.

Prefixes are nodes of a trie in flat arrays: one that is reached in several ways is one node, and its probability their
sum. With T frames and a beam of K there are at most T K + 1 nodes, of which memory is taken as they are made. Nothing
is allocated from frame to frame, but for the nodes' hash table, which doubles when it is half full.

A frame costs K updates of the prefixes that stay, and then only as many of the K V longer ones as may still come among
the best K: a bound that rises as better ones are found drops the others before their words are looked at.

The compiled code is kept on disk; Numba looks at this file alone to see whether it is still good, so whoever changes
what is imported from `ngram` removes it from `__pycache__`.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from speechkit.decoding.hotwords import HotwordTables
from speechkit.decoding.lexicon import WordTrie
from speechkit.decoding.ngram import NGramTables, advance, find_child, find_slot, kernel

Array = NDArray[Any]

inner = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)

ZERO = -1e30  # the logarithm of no probability: finite, so that a difference is never NaN
LEAST = -1e29  # a score below has a factor of `ZERO`
BLANK = SPACE = ROOT = 0  # a label, a character of the alphabet, a node of any trie
FIRST_SLOTS = 1 << 12  # of the hash table
NODE = np.dtype(
    [("parent", np.int32), ("label", np.int32), ("place", np.int32)], align=True
)  # place: in the beam, or -1
TEXT = np.dtype(
    [
        ("word", np.int32),  # node of the word trie, ROOT between words; -1: this text has not been looked at yet
        ("lm_state", np.int32),
        ("hotword_state", np.int32),
        ("settled", np.float64),  # what the text adds to the score and keeps; -inf where it is impossible
        ("ahead", np.float64),  # what it adds as long as it goes on: of the word and the hotword that have begun
        ("lm_score", np.float64),
    ],
    align=True,
)

PLACE = np.dtype(  # of a prefix in the beam; the logarithms of its probability
    [
        ("node", np.int32),
        ("last", np.int32),  # its last label; before the first label the separator
        ("blank", np.float64),  # of the paths that end in a blank
        ("label", np.float64),  # of those that end in the last label
        ("total", np.float64),  # of both
        ("added", np.float64),  # what the text adds to the score
        ("bound", np.float64),  # of the score with the last word ended
    ],
    align=True,
)
CANDIDATE = np.dtype(  # a prefix that is one label longer
    [
        ("parent", np.int32),
        ("label", np.int32),
        ("node", np.int32),  # -1 if it has not been in the beam
        ("total", np.float64),
        ("score", np.float64),
    ],
    align=True,
)


class Labels(NamedTuple):
    """What each of V labels adds to a text; S characters in all."""

    characters: Array  # (S,) int32, ids in the alphabet, spaces left out
    stops: Array  # (V,) int32, one past the last character of each label
    begins_word: Array  # (V,) bool, it ends the word before it
    is_searched: Array  # (V,) bool, it stands for a text; not so the blank
    gains: Array  # (V,) float64, the most that it can add to a text's score
    separator: int  # the label that is only a space, -1 if there is none
    are_words: bool  # each is a whole word


class Options(NamedTuple):
    """As in `speechkit.decoding.BeamSearch`, which checks them."""

    beam_size: int
    beam_threshold: float
    token_beam_size: int
    token_threshold: float
    has_lm: bool
    lm_weight: float
    word_gain: float  # the most that the end of a word can add to a text's score
    begin_state: int  # of the language model
    end_id: int  # of </s>, -1 if it is not to be scored


class Tables(NamedTuple):
    """What the search looks up and does not change."""

    labels: Labels
    trie: WordTrie
    ngram: NGramTables
    hotwords: HotwordTables
    options: Options


class Prefixes(NamedTuple):
    """All that have been in the beam."""

    nodes: Array  # (T K + 1,) NODE
    texts: Array  # (T K + 1,) TEXT
    finished: Array  # (T K + 1,) TEXT, the same with the last word ended; made when it is asked for


@inner
def log_add(x: float, y: float) -> float:
    """log(exp x + exp y)."""
    if x < y:
        x, y = y, x
    return x if y < x - 40.0 else x + math.log1p(math.exp(y - x))


@inner
def kth_largest(values: Array, count: int, k: int) -> float:
    """Of the first values, which are put in another order (quickselect, Hoare 1961)."""
    low, high = 0, count - 1
    while low < high:
        pivot = values[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while values[left] > pivot:
                left += 1
            while values[right] < pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left, right = left + 1, right - 1
        if k - 1 <= right:
            high = right
        elif k - 1 >= left:
            low = left
        else:
            break
    return values[k - 1]


@inner
def _best_first(found: Array, texts: Array, count: int, scratch: Array) -> float:
    """Moves the best `count` candidates of all to the front; the least of their scores."""
    for place in range(found.size):
        scratch[place] = found[place].score
    bar = kth_largest(scratch, found.size, count)
    num_ties = count
    for place in range(found.size):
        num_ties -= found[place].score > bar
    left = 0
    for place in range(found.size):
        is_tie = found[place].score == bar
        if found[place].score > bar or (is_tie and num_ties > 0):
            num_ties -= is_tie
            found[left], texts[left] = found[place], texts[place]
            left += 1
    return bar


@inner
def _end_word(tables: Tables, texts: Array, place: int) -> None:
    """Ends the last word of a text, if one has begun."""
    text = texts[place]
    if text.word == ROOT:
        return
    trie, hotwords, options = tables.trie, tables.hotwords, tables.options
    text.settled += trie.ends[text.word]
    if text.settled > -np.inf and options.has_lm:
        log_prob, state = advance(tables.ngram, text.lm_state, trie.word_ids[text.word])
        text.settled += options.lm_weight * log_prob
        text.lm_score += log_prob
        text.lm_state = state
    text.hotword_state = hotwords.steps[text.hotword_state, hotwords.columns[SPACE]]
    text.settled += hotwords.completed[text.hotword_state]
    text.ahead = hotwords.in_progress[text.hotword_state]
    text.word = ROOT


@inner
def _finish(tables: Tables, prefixes: Prefixes, node: int) -> None:
    """Fills in `finished`."""
    if prefixes.finished[node].word < 0:
        prefixes.finished[node] = prefixes.texts[node]
        _end_word(tables, prefixes.finished, np.int64(node))


@inner
def _spell(tables: Tables, word: int, label: int) -> int:
    """The node of the word trie that a label leads to."""
    labels, trie = tables.labels, tables.trie
    for place in range(labels.stops[label - 1], labels.stops[label]):
        child = find_child(trie.keys, trie.children, word, labels.characters[place])
        word = child if child >= 0 else np.int32(trie.ends.size - 1)
    return word


@inner
def _add_label(tables: Tables, texts: Array, at: int, label: int, word: int) -> None:
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
        _end_word(tables, texts, at)


@inner
def _stay(tables: Tables, prefixes: Prefixes, frame: Array, least: float, beam: Array, stayed: Array) -> None:
    """One frame more for the prefixes in the beam, also as what others among them become by one more label."""
    for place in range(beam.size):
        old, new = beam[place], stayed[place]
        new.node, new.last, new.label = old.node, old.last, ZERO
        new.blank = old.total + frame[BLANK]
        if old.last >= 0:
            log_prob = frame[old.last]
            new.label = (old.total if old.last == tables.labels.separator else old.label) + log_prob
            parent = prefixes.nodes[old.node].parent
            if parent >= 0 and prefixes.nodes[parent].place >= 0 and log_prob >= least:
                shorter = beam[prefixes.nodes[parent].place]
                total = shorter.blank if shorter.last == old.last else shorter.total
                new.label = log_add(new.label, total + log_prob)
        new.total = log_add(new.blank, new.label)
        text, finished = prefixes.texts[old.node], prefixes.finished[old.node]
        new.added = text.settled + text.ahead
        if finished.word >= 0:
            old.bound = old.total + finished.settled + finished.ahead
        else:
            hotword = tables.hotwords.in_progress[text.hotword_state]
            old.bound = old.total + text.settled + hotword + tables.options.word_gain


@inner
def _extend(
    tables: Tables,
    prefixes: Prefixes,
    hashed: tuple[Array, Array],
    frame: Array,
    least: float,
    beam: Array,
    bar: float,
    found: Array,
    texts: Array,
    scratch: Array,
) -> tuple[float, int]:
    """Writes into `found` the prefixes one label longer that are not in the beam and score `bar` or more.

    Returns `bar`, raised where it is known that better ones fill the beam, and the number of candidates.
    """
    labels = tables.labels
    best_score, best_bound, count = -np.inf, -np.inf, np.int64(0)
    for place in range(beam.size):
        best_score, best_bound = (
            max(best_score, beam[place].total + beam[place].added),
            max(best_bound, beam[place].bound),
        )
    likeliest = 1  # goes first, since it raises the bar the most
    for label in range(2, frame.size):
        likeliest = label if frame[label] > frame[likeliest] else likeliest
    for turn in range(frame.size):
        label = likeliest if turn == BLANK else (BLANK if turn == likeliest else turn)
        log_prob, gain, begins = frame[label], frame[label] + labels.gains[label], labels.begins_word[label]
        is_hopeless = (best_bound if begins else best_score) + gain < bar
        if is_hopeless or log_prob < least or not labels.is_searched[label]:
            continue
        for place in range(beam.size):
            shorter = beam[place]
            if (shorter.bound if begins else shorter.total + shorter.added) + gain < bar:
                continue
            repeats = shorter.last == label
            if repeats and label == labels.separator:
                continue
            if begins:
                _finish(tables, prefixes, shorter.node)
            text = prefixes.finished[shorter.node] if begins else prefixes.texts[shorter.node]
            word = _spell(tables, text.word, label)
            total = shorter.blank if repeats else shorter.total
            ahead = 0.0 if labels.are_words else tables.trie.look_ahead[word]
            hotword = tables.hotwords.in_progress[text.hotword_state]
            if total + gain + text.settled + ahead + hotword < bar:
                continue
            node = find_child(hashed[0], hashed[1], shorter.node, label)
            if node >= 0 and prefixes.nodes[node].place >= 0:
                continue  # `_stay` has seen to it
            if node >= 0:
                texts[count] = prefixes.texts[node]
            else:
                texts[count] = text
                _add_label(tables, texts, count, label, word)
            candidate = found[count]
            candidate.total = total + log_prob
            candidate.score = candidate.total + texts[count].settled + texts[count].ahead
            if candidate.score < bar:
                continue
            candidate.parent, candidate.label, candidate.node = shorter.node, label, node
            count += 1
            if count == found.size:
                count = count // 2
                bar = _best_first(found, texts, count, scratch)
    return bar, count


@inner
def _first_bar(stayed: Array, options: Options, scratch: Array) -> float:
    """What a score must reach, as far as those that stay can tell."""
    best = -np.inf
    for place in range(stayed.size):
        scratch[2 * place] = stayed[place].blank + stayed[place].added
        scratch[2 * place + 1] = stayed[place].label + stayed[place].added
        best = max(best, scratch[2 * place], scratch[2 * place + 1])
    bar = max(best - options.beam_threshold, LEAST)
    if 2 * stayed.size > options.beam_size:
        bar = max(bar, kth_largest(scratch, 2 * stayed.size, options.beam_size))
    return bar


@inner
def _least_log_prob(frame: Array, options: Options, scratch: Array) -> float:
    """What a label must have in this frame to be added to a prefix."""
    best = -np.inf
    for symbol in range(frame.size):
        scratch[symbol] = frame[symbol]
        best = max(best, scratch[symbol])
    least = min(options.token_threshold, best)
    if options.token_beam_size < frame.size:
        least = max(least, kth_largest(scratch, frame.size, options.token_beam_size))
    return least


@inner
def _with_slots(prefixes: Prefixes, num_nodes: int, num_slots: int) -> tuple[Array, Array]:
    """Hash table of the prefixes: (parent << 32) | label, -1 where empty, and node."""
    keys, nodes = np.full(num_slots, -1, np.int64), np.empty(num_slots, np.int32)
    for node in range(1, num_nodes):
        key = (np.int64(prefixes.nodes[node].parent) << 32) | np.int64(prefixes.nodes[node].label)
        slot = find_slot(keys, key)
        keys[slot], nodes[slot] = key, node
    return keys, nodes


@inner
def _select(
    tables: Tables,
    prefixes: Prefixes,
    hashed: tuple[Array, Array],
    stayed: Array,
    found: Array,
    texts: Array,
    bar: float,
    num_nodes: int,
    beam: Array,
    scratch: Array,
) -> tuple[int, int]:
    """Fills the beam with the best of those that stayed and those that were found; how many they are, and the nodes."""
    bar = max(bar, _first_bar(stayed, tables.options, scratch))
    best = -np.inf
    for place in range(found.size):
        best = max(best, found[place].score)
    bar = max(bar, best - tables.options.beam_threshold)
    num_scores = 0
    for place in range(stayed.size):
        scratch[num_scores] = stayed[place].blank + stayed[place].added
        scratch[num_scores + 1] = stayed[place].label + stayed[place].added
        num_scores += 2
    for place in range(found.size):
        scratch[num_scores] = found[place].score
        num_scores += 1
    if num_scores > beam.size:
        bar = max(bar, kth_largest(scratch, num_scores, beam.size))
    count = 0
    for place in range(stayed.size):
        kept = stayed[place]
        if kept.blank + kept.added < bar:
            kept.blank = ZERO
        if kept.label + kept.added < bar:
            kept.label = ZERO
        is_kept = max(kept.blank, kept.label) > LEAST and count < beam.size
        prefixes.nodes[kept.node].place = count if is_kept else -1
        if is_kept:
            kept.total = log_add(kept.blank, kept.label)
            beam[count] = kept
            count += 1
    for place in range(found.size):
        candidate = found[place]
        if candidate.score < bar or count == beam.size:
            continue
        node = candidate.node
        if node < 0:
            node, num_nodes = num_nodes, num_nodes + 1
            slot = find_slot(hashed[0], (np.int64(candidate.parent) << 32) | np.int64(candidate.label))
            hashed[0][slot], hashed[1][slot] = (np.int64(candidate.parent) << 32) | np.int64(candidate.label), node
            prefixes.nodes[node].parent, prefixes.nodes[node].label = candidate.parent, candidate.label
            prefixes.texts[node] = texts[place]
            prefixes.finished[node].word = -1
        prefixes.nodes[node].place = count
        new = beam[count]
        new.node, new.last, new.blank = node, candidate.label, ZERO
        new.label = new.total = candidate.total
        new.added = candidate.score - candidate.total
        count += 1
    return count, num_nodes


@inner
def _begin(tables: Tables, prefixes: Prefixes, beam: Array) -> None:
    """The empty prefix is all that the beam holds."""
    root, text, first = prefixes.nodes[ROOT], prefixes.texts[ROOT], beam[0]
    root.parent, root.label, root.place = -1, tables.labels.separator, 0
    text.word, text.lm_state, text.hotword_state = ROOT, tables.options.begin_state, 0
    text.settled = text.ahead = text.lm_score = 0.0
    prefixes.finished[ROOT].word = -1
    first.node, first.last = ROOT, tables.labels.separator
    first.blank, first.label, first.total, first.added = 0.0, ZERO, 0.0, 0.0


@inner
def _results(tables: Tables, prefixes: Prefixes, beam: Array, num_best: int) -> tuple[Array, Array, Array]:
    """Ends the texts of the beam, joins those that are the same and ranks them."""
    nodes, finished, options = prefixes.nodes, prefixes.finished, tables.options
    is_any_whole = False
    for place in range(beam.size):
        nodes[beam[place].node].place = -1
        _finish(tables, prefixes, beam[place].node)
        is_any_whole |= finished[beam[place].node].settled > -np.inf
    ends, totals, scores, count = np.empty(beam.size, np.int32), np.empty(beam.size), np.empty(beam.size), 0
    for place in range(beam.size):
        end = beam[place].node
        while finished[end].settled == -np.inf and not is_any_whole:
            end = nodes[end].parent
            _finish(tables, prefixes, end)
        if finished[end].settled == -np.inf:
            continue
        if end != ROOT and nodes[end].label == tables.labels.separator:
            end = nodes[end].parent
            _finish(tables, prefixes, end)
        if nodes[end].place >= 0:
            totals[nodes[end].place] = log_add(totals[nodes[end].place], beam[place].total)
            continue
        nodes[end].place = count
        ends[count], totals[count] = end, beam[place].total
        count += 1
    for place in range(count):
        text = finished[ends[place]]
        if options.end_id >= 0:
            log_prob, _ = advance(tables.ngram, text.lm_state, np.int32(options.end_id))
            text.lm_score += log_prob
            text.settled += options.lm_weight * log_prob
        scores[place] = totals[place] + text.settled
    ranked = np.arange(count)
    num_best = min(num_best, count)
    stops, measures = np.zeros(num_best, np.int64), np.empty((num_best, 3))
    for rank in range(num_best):
        for other in range(rank + 1, count):
            if scores[ranked[other]] > scores[ranked[rank]]:
                ranked[rank], ranked[other] = ranked[other], ranked[rank]
        place = ranked[rank]
        measures[rank, 0], measures[rank, 1] = scores[place], totals[place]
        measures[rank, 2] = finished[ends[place]].lm_score
        stops[rank] = stops[rank - 1] if rank else 0
        node = ends[place]
        while node != ROOT:
            node, stops[rank] = nodes[node].parent, stops[rank] + 1
    labels = np.empty(stops[-1], np.int32)
    for rank in range(num_best):
        node, stop = ends[ranked[rank]], stops[rank]
        while node != ROOT:
            stop -= 1
            node, labels[stop] = nodes[node].parent, nodes[node].label
    return labels, stops, measures


@kernel
def search(log_probs: Array, tables: Tables, num_best: int) -> tuple[Array, Array, Array]:
    """Decodes one utterance.

    Args:
        log_probs: (T, V) float32, finite.
        tables: what is looked up.
        num_best: how many hypotheses are wanted.

    Returns:
        The labels of the best hypotheses, one behind the other, best first, int32; where each ends, (N,) int64; and
        (N, 3) their scores, acoustic scores and language model scores.
    """
    options, beam_size = tables.options, tables.options.beam_size
    capacity = log_probs.shape[0] * beam_size + 1
    prefixes = Prefixes(np.empty(capacity, NODE), np.empty(capacity, TEXT), np.empty(capacity, TEXT))
    hashed = _with_slots(prefixes, 1, FIRST_SLOTS)
    beam, stayed = np.empty(beam_size, PLACE), np.empty(beam_size, PLACE)
    found, texts = np.empty(2 * beam_size, CANDIDATE), np.empty(2 * beam_size, TEXT)
    scratch = np.empty(max(4 * beam_size, log_probs.shape[1]))
    _begin(tables, prefixes, beam)
    count = num_nodes = np.int64(1)  # not a literal, for which Numba compiles once more
    for frame in log_probs:
        least = _least_log_prob(frame, options, scratch)
        _stay(tables, prefixes, frame, least, beam[:count], stayed)
        bar = _first_bar(stayed[:count], options, scratch)
        bar, num_found = _extend(tables, prefixes, hashed, frame, least, beam[:count], bar, found, texts, scratch)
        while 2 * (num_nodes + num_found) > hashed[0].size:
            hashed = _with_slots(prefixes, num_nodes, 2 * hashed[0].size)
        count, num_nodes = _select(
            tables, prefixes, hashed, stayed[:count], found[:num_found], texts, bar, num_nodes, beam, scratch
        )
    return _results(tables, prefixes, beam[:count], num_best)
