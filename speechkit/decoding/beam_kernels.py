"""CTC prefix beam search on a CPU: `prefix_beam_reference` in machine code, compiled by Numba at the first call.

Prefixes are nodes of a trie in flat arrays: one that is reached in several ways is one node, and its probability their
sum. With T frames and a beam of K there are at most T K + 1 nodes, of which memory is taken as they are made. Nothing
is allocated from frame to frame, but for the nodes' hash table, which doubles when it is half full.

A frame costs K updates of the prefixes that stay, and then only as many of the K V longer ones as may still come among
the best K: a bound that rises as better ones are found drops the others before their words are looked at.

The compiled code is kept on disk. Numba looks at this file alone to see whether it is still good: whoever changes what
is imported here removes it from `__pycache__`.
"""

import math
from typing import Any

import numpy as np

from speechkit.decoding.beam_arrays import CANDIDATE, NODE, PLACE, TEXT, Array, Options, Prefixes, Tables, Workspace
from speechkit.decoding.beam_words import ROOT, add_label, finish, inner, spell
from speechkit.decoding.ngram import advance, find_child, find_slot, kernel

BLANK = 0
ZERO = -1e30  # the logarithm of no probability: finite, so that a difference is never NaN
LEAST = -1e29  # scores below hold a `ZERO`
FIRST_SLOTS = 1 << 12  # of the hash table
Hashed = tuple[Array, Array]  # (parent << 32) | label, -1 where empty, int64; node, int32


@inner
def log_add(x: float, y: float) -> float:
    """log(exp x + exp y)."""
    if x < y:
        x, y = y, x
    return x if y < x - 40.0 else x + math.log1p(math.exp(y - x))


@inner
def kth_largest(values: Array, count: int, k: int) -> float:
    """Of the first `count` values, which come into another order (quickselect, Hoare 1961); -inf if there are fewer."""
    if k > count:
        return -np.inf
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
def _stay(tables: Tables, prefixes: Prefixes, work: Workspace, count: int, frame: Array, least: float) -> float:
    """One frame more for the prefixes in the beam, also as what others among them become by one more label.

    Returns a bar: what does not reach it cannot stay in the beam.
    """
    best = -np.inf
    for place in range(count):
        old, new = work.beam[place], work.stayed[place]
        new.node, new.last, new.label = old.node, old.last, ZERO
        new.blank = old.total + frame[BLANK]
        if old.last >= 0:
            log_prob = frame[old.last]
            new.label = (old.total if old.last == tables.labels.separator else old.label) + log_prob
            parent = prefixes.nodes[old.node].parent
            if parent >= 0 and prefixes.nodes[parent].place >= 0 and log_prob >= least:
                shorter = work.beam[prefixes.nodes[parent].place]
                new.label = log_add(
                    new.label, (shorter.blank if shorter.last == old.last else shorter.total) + log_prob
                )
        new.added = old.added
        work.scratch[2 * place], work.scratch[2 * place + 1] = new.blank + new.added, new.label + new.added
        best = max(best, new.blank + new.added, new.label + new.added)
    bar = max(best - tables.options.beam_threshold, LEAST)
    return max(bar, kth_largest(work.scratch, 2 * count, tables.options.beam_size))


@inner
def _extend(
    tables: Tables,
    prefixes: Prefixes,
    hashed: Hashed,
    work: Workspace,
    count: int,
    frame: Array,
    likeliest: int,
    least: float,
    bar: float,
) -> tuple[int, float]:
    """Finds the prefixes one label longer that are not in the beam and score `bar` or more.

    Returns how many they are, and the bar, raised where better ones are known to fill the beam.
    """
    labels, trie = tables.labels, tables.trie
    num_found: Any = np.int64(0)  # not a literal, for which Numba would compile once more
    best, best_ended = -np.inf, -np.inf
    for place in range(count):
        _bound(tables, prefixes, work.beam[place])
        best = max(best, work.beam[place].total + work.beam[place].added)
        best_ended = max(best_ended, work.beam[place].ended)
    for turn in range(frame.size):
        label = likeliest if turn == BLANK else (BLANK if turn == likeliest else turn)  # so that the bar rises at once
        begins, log_prob = labels.begins_word[label], frame[label]
        gain = log_prob + labels.gains[label]
        if (best_ended if begins else best) + gain < bar or log_prob < least:
            continue
        for place in range(count):
            shorter = work.beam[place]
            if begins:
                bound = shorter.ended
            elif shorter.next_characters & labels.first_bits[label]:
                bound = shorter.total + shorter.added
            else:
                bound = shorter.unknown
            if bound + gain < bar:
                continue
            repeats = shorter.last == label
            if repeats and label == labels.separator:
                continue
            if begins:
                finish(tables, prefixes, shorter.node)
            text = (prefixes.finished if begins else prefixes.texts)[shorter.node]
            total = shorter.blank if repeats else shorter.total
            word = labels.starts[label] if begins else spell(tables, text.word, label)
            ahead = 0.0 if begins else trie.look_ahead[word]
            if total + text.settled + ahead + tables.hotwords.in_progress[text.hotword_state] + gain < bar:
                continue
            node = find_child(hashed[0], hashed[1], shorter.node, label)
            if node >= 0 and prefixes.nodes[node].place >= 0:
                continue  # `_stay` has seen to it
            if node >= 0:
                work.texts[num_found] = prefixes.texts[node]
            else:
                work.texts[num_found] = text
                add_label(tables, work.texts, num_found, label, word)
            new, text = work.found[num_found], work.texts[num_found]
            new.parent, new.label, new.node, new.total = shorter.node, label, node, total + log_prob
            new.score = new.total + text.settled + text.ahead
            num_found += new.score >= bar
            if num_found == work.found.size:
                num_found //= 2
                bar = _keep_best(work, num_found)
    return num_found, bar


@inner
def _bound(tables: Tables, prefixes: Prefixes, place: Any) -> None:
    """What the score of a prefix can be when its last word is ended, and when it goes on as no known word does."""
    trie, text, finished = tables.trie, prefixes.texts[place.node], prefixes.finished[place.node]
    score = place.total + text.settled + tables.hotwords.in_progress[text.hotword_state]
    place.ended = score + tables.options.word_gain
    if finished.word >= 0:
        place.ended = place.total + finished.settled + finished.ahead
    place.unknown = score + trie.look_ahead[trie.look_ahead.size - 1]
    place.next_characters = trie.next_characters[text.word]


@inner
def _keep_best(work: Workspace, count: int) -> float:
    """Moves the best `count` of all candidates to the front; the least of their scores."""
    for place in range(work.found.size):
        work.scratch[place] = work.found[place].score
    bar = kth_largest(work.scratch, work.found.size, count)
    ties = count
    for place in range(work.found.size):
        ties -= work.found[place].score > bar
    left = 0
    for place in range(work.found.size):
        is_tie = work.found[place].score == bar
        if work.found[place].score > bar or (is_tie and ties > 0):
            ties -= is_tie
            work.found[left], work.texts[left] = work.found[place], work.texts[place]
            left += 1
    return bar


@inner
def _select(
    tables: Tables,
    prefixes: Prefixes,
    hashed: Hashed,
    work: Workspace,
    count: int,
    num_found: int,
    bar: float,
    num_nodes: int,
) -> tuple[int, int]:
    """Fills the beam with the best of what stayed and of what was found.

    What counts is the score of a prefix and of one way to end: the paths that end in a blank and those that end in the
    last label are kept or dropped on their own. Returns the number of prefixes in the beam, and of all nodes.
    """
    best = -np.inf
    for place in range(num_found):
        work.scratch[place] = work.found[place].score
        best = max(best, work.found[place].score)
    for place in range(count):
        new = work.stayed[place]
        work.scratch[num_found + 2 * place] = new.blank + new.added
        work.scratch[num_found + 2 * place + 1] = new.label + new.added
    bar = max(bar, best - tables.options.beam_threshold)
    bar = max(bar, kth_largest(work.scratch, num_found + 2 * count, work.beam.size))
    ties = work.beam.size  # how many of those may stay that are just at the bar
    for place in range(num_found + 2 * count):
        ties -= work.scratch[place] > bar
    num_kept = 0
    for place in range(count):
        new = work.stayed[place]
        score = new.blank + new.added
        if score < bar or (score == bar and ties <= 0):
            new.blank = ZERO
        ties -= score == bar
        score = new.label + new.added
        if score < bar or (score == bar and ties <= 0):
            new.label = ZERO
        ties -= score == bar
        is_kept = max(new.blank, new.label) > LEAST
        prefixes.nodes[new.node].place = num_kept if is_kept else -1
        if is_kept:
            new.total = log_add(new.blank, new.label)
            work.beam[num_kept] = new
            num_kept += 1
    for place in range(num_found):
        new = work.found[place]
        ties -= new.score == bar
        if new.score < bar or (new.score == bar and ties < 0):
            continue
        node = new.node
        if node < 0:
            node, num_nodes = num_nodes, num_nodes + 1
            prefixes.nodes[node].parent, prefixes.nodes[node].label = new.parent, new.label
            prefixes.texts[node] = work.texts[place]
            prefixes.finished[node].word = -1
            _hash(prefixes, hashed, node)
        prefixes.nodes[node].place = num_kept
        kept = work.beam[num_kept]
        kept.node, kept.last, kept.added = node, new.label, new.score - new.total
        kept.blank, kept.label, kept.total = ZERO, new.total, new.total
        num_kept += 1
    return num_kept, num_nodes


@inner
def _likeliest_label(frame: Array) -> int:
    likeliest = 1
    for label in range(2, frame.size):
        likeliest = label if frame[label] > frame[likeliest] else likeliest
    return likeliest


@inner
def _least_log_prob(frame: Array, likeliest: int, options: Options, scratch: Array) -> float:
    """What a label must have in this frame to be added to a prefix."""
    least = min(options.token_threshold, max(frame[BLANK], frame[likeliest]))
    if options.token_beam_size < frame.size:
        for symbol in range(frame.size):
            scratch[symbol] = frame[symbol]
        least = max(least, kth_largest(scratch, frame.size, options.token_beam_size))
    return least


@inner
def _hash(prefixes: Prefixes, hashed: Hashed, node: int) -> None:
    key = (np.int64(prefixes.nodes[node].parent) << 32) | np.int64(prefixes.nodes[node].label)
    slot = find_slot(hashed[0], key)
    hashed[0][slot], hashed[1][slot] = key, node


@inner
def _hash_all(prefixes: Prefixes, num_nodes: int, num_slots: int) -> Hashed:
    hashed = np.full(num_slots, -1, np.int64), np.empty(num_slots, np.int32)
    for node in range(1, num_nodes):
        _hash(prefixes, hashed, node)
    return hashed


@inner
def _begin(tables: Tables, prefixes: Prefixes, beam: Array) -> None:
    """The empty prefix is all that the beam holds."""
    root, text, first = prefixes.nodes[ROOT], prefixes.texts[ROOT], beam[0]
    root.parent, root.label, root.place = -1, tables.labels.separator, 0
    text.word, text.lm_state, text.hotword_state = ROOT, tables.options.begin_state, 0
    text.settled, text.ahead, text.lm_score = 0.0, 0.0, 0.0
    prefixes.finished[ROOT].word = -1
    first.node, first.last, first.added = ROOT, tables.labels.separator, 0.0
    first.blank, first.label, first.total = 0.0, ZERO, 0.0


@inner
def _end(tables: Tables, prefixes: Prefixes, beam: Array, ends: Array, measures: Array) -> int:
    """Ends the texts of the beam and joins those that are the same; where none is whole, unfinished words are cut off.

    Writes the node of each, and its score, acoustic score and language model score; returns how many they are.
    """
    nodes, finished, options = prefixes.nodes, prefixes.finished, tables.options
    is_any_whole, count = False, 0
    for place in range(beam.size):
        nodes[beam[place].node].place = -1
        finish(tables, prefixes, beam[place].node)
        is_any_whole |= finished[beam[place].node].settled > -np.inf
    for place in range(beam.size):
        node = beam[place].node
        while finished[node].settled == -np.inf and not is_any_whole:
            node = nodes[node].parent
            finish(tables, prefixes, node)
        if finished[node].settled == -np.inf:
            continue
        if node != ROOT and nodes[node].label == tables.labels.separator:
            node = nodes[node].parent
            finish(tables, prefixes, node)
        if nodes[node].place < 0:
            nodes[node].place = count
            ends[count], measures[count, 1] = node, ZERO
            count += 1
        measures[nodes[node].place, 1] = log_add(measures[nodes[node].place, 1], beam[place].total)
    for place in range(count):
        text, log_prob = finished[ends[place]], 0.0
        if options.end_id >= 0:
            log_prob, _ = advance(tables.ngram, text.lm_state, np.int32(options.end_id))
        measures[place, 0] = measures[place, 1] + text.settled + options.lm_weight * log_prob
        measures[place, 2] = text.lm_score + log_prob
    return count


@inner
def _rank(scores: Array, num_best: int) -> Array:
    """The places of the best scores, best first."""
    ranked = np.arange(scores.size)
    for rank in range(num_best):
        for other in range(rank + 1, scores.size):
            if scores[ranked[other]] > scores[ranked[rank]]:
                ranked[rank], ranked[other] = ranked[other], ranked[rank]
    return ranked[:num_best]


@kernel
def search(log_probs: Array, tables: Tables, num_best: int) -> tuple[Array, Array, Array]:
    """Decodes one utterance.

    Args:
        log_probs: (T, V) float32, finite.
        tables: what is looked up.
        num_best: how many hypotheses are wanted.

    Returns:
        The labels of the N best hypotheses, best first, one behind the other, int32; one past the last label of each,
        (N,) int64; and their scores, acoustic scores and language model scores, (N, 3).
    """
    options, size = tables.options, tables.options.beam_size
    capacity = log_probs.shape[0] * size + 1
    prefixes = Prefixes(np.empty(capacity, NODE), np.empty(capacity, TEXT), np.empty(capacity, TEXT))
    work = Workspace(
        np.empty(size, PLACE),
        np.empty(size, PLACE),
        np.empty(2 * size, CANDIDATE),
        np.empty(2 * size, TEXT),
        np.empty(max(4 * size, log_probs.shape[1])),
    )
    hashed = _hash_all(prefixes, 1, FIRST_SLOTS)
    _begin(tables, prefixes, work.beam)
    count = num_nodes = np.int64(1)
    for frame in log_probs:
        likeliest = _likeliest_label(frame)
        least = _least_log_prob(frame, likeliest, options, work.scratch)
        bar = _stay(tables, prefixes, work, count, frame, least)
        num_found, bar = _extend(tables, prefixes, hashed, work, count, frame, likeliest, least, bar)
        while 2 * (num_nodes + num_found) > hashed[0].size:
            hashed = _hash_all(prefixes, num_nodes, 2 * hashed[0].size)
        count, num_nodes = _select(tables, prefixes, hashed, work, count, num_found, bar, num_nodes)

    ends, measures = np.empty(size, np.int32), np.empty((size, 3))
    num_ends = _end(tables, prefixes, work.beam[:count], ends, measures)
    ranked = _rank(measures[:num_ends, 0], min(num_best, num_ends))
    stops = np.zeros(ranked.size, np.int64)
    for rank, place in enumerate(ranked):
        stops[rank] = stops[rank - 1] if rank else 0
        node = ends[place]
        while node != ROOT:
            node, stops[rank] = prefixes.nodes[node].parent, stops[rank] + 1
    labels = np.empty(stops[-1], np.int32)
    for rank, place in enumerate(ranked):
        node, stop = ends[place], stops[rank]
        while node != ROOT:
            stop -= 1
            node, labels[stop] = prefixes.nodes[node].parent, prefixes.nodes[node].label
    return labels, stops, measures[ranked]
