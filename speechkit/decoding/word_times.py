"""When each word of a transcript is said, and how sure the recogniser is of it: the best path of CTC through it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from speechkit.decoding.greedy import best_log_probs, greedy_spans
from speechkit.text import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

_PAUSE_DB = 20.0  # a pause is so much quieter than the words around it,
_PAUSE_RISE_DB = 10.0  # and at most so much louder than its own quietest moment
_LONGEST_REACH_SECONDS = 0.8  # from a label to the end of its word


class WordSpan(NamedTuple):
    """A word and its frames.

    Attributes:
        text: the word.
        first: its first frame.
        last: the frame after its last one.
        confidence: the geometric mean, over its labels and their frames, of their probabilities.
    """

    text: str
    first: int
    last: int
    confidence: float


def find_words(
    logits: "Tensor",
    lengths: "Tensor",
    labels: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    *,
    temperature: float = 1.0,
) -> list[list[WordSpan]]:
    """The words of each utterance, by `speechkit.losses.ctc_align`.

    Args:
        logits: (B, T, V).
        lengths: (B,) frames.
        labels: what each utterance was decoded to.
        tokenizer: labels -> words.
        temperature: that the logits are divided by before probabilities are taken, see `calibration`.

    Returns:
        Words in order; none for an utterance that has too few frames for its labels.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from speechkit.losses import ctc_align, ctc_feasible

    counts = torch.tensor([len(row) for row in labels])
    if len(labels) == 0 or int(counts.max()) == 0:
        return [[] for _ in labels]
    targets = pad_sequence([torch.tensor(row, dtype=torch.long) for row in labels], batch_first=True)
    lengths = lengths.cpu()
    feasible = ctc_feasible(targets, lengths, counts)
    counts = counts.where(feasible, 0)
    path = ctc_align(logits / temperature, targets.to(logits.device), lengths, counts, blank=tokenizer.blank_id)
    rows = zip(labels, counts.tolist(), path.starts.tolist(), path.ends.tolist(), path.scores.cpu(), strict=True)
    return [
        [
            WordSpan(tokenizer.decode(row[word]), min(starts[word]), max(ends[word]), float(scores[word].mean().exp()))
            for word in tokenizer.split_words(row[:count])
        ]
        for row, count, starts, ends, scores in rows
    ]


def find_greedy_words(
    logits: "Tensor | np.ndarray", tokenizer: Tokenizer, *, temperature: float = 1.0
) -> list[WordSpan]:
    """The words of one utterance's likeliest path (T, V): what `find_words` finds for its labels, with no search.

    No path is likelier than the likeliest of each frame, so it is also the best one through its own labels.
    """
    labels, firsts, lasts = greedy_spans(logits, blank=tokenizer.blank_id)
    log_probs = best_log_probs(logits, temperature=temperature)
    scores = [np.float32(log_probs[first:last].mean()) for first, last in zip(firsts, lasts, strict=True)]
    return [
        WordSpan(
            tokenizer.decode(labels[word]), min(firsts[word]), max(lasts[word]), float(np.exp(np.mean(scores[word])))
        )
        for word in tokenizer.split_words(labels)
    ]


def extend_to_pauses(
    spans: Sequence[tuple[float, float]], levels: np.ndarray, *, step: float, start: float, end: float
) -> list[tuple[float, float]]:
    """Starts and ends of words, moved to the pauses between them where there are some.

    CTC puts a label wherever within a word it likes best (Sak et al. 2015, arXiv 1507.06947): a word that is one label
    is a spike in its midst. Between the spikes of two words, the longest stretch that is much quieter than both is
    taken to be what parts them. Where there is none, as in fluent speech, times stay as they are; but what is not quiet
    before the first word belongs to it, and to the last word what is not quiet behind it.

    Args:
        spans: start and end of each word, by CTC, in seconds.
        levels: of the audio in dB, from second 0 on.
        step: seconds from one level to the next.
        start: seconds, before which there is no word.
        end: seconds, behind which there is none.
    """
    edges = [(start, start), *spans, (end, end)]
    starts, ends = [span[0] for span in edges], [span[1] for span in edges]
    for place in range(len(edges) - 1):
        first, last = math.ceil(ends[place] / step - 1e-6), math.floor(edges[place + 1][0] / step + 1e-6)
        quiet = _longest_quiet(levels, max(0, first), min(last, len(levels)), round(0.15 / step))
        if quiet is not None:
            ends[place], starts[place + 1] = quiet[0] * step, quiet[1] * step
        elif len(levels) and place == 0 and starts[1] - start < _LONGEST_REACH_SECONDS:
            starts[1] = start
        elif len(levels) and place == len(edges) - 2 and end - ends[place] < _LONGEST_REACH_SECONDS:
            ends[place] = end
    return list(zip(starts, ends, strict=True))[1:-1]


def _longest_quiet(levels: np.ndarray, first: int, last: int, reach: int) -> tuple[int, int] | None:
    """The longest stretch of [first, last) that is quiet against what is up to `reach` around it."""
    if last <= first:
        return None
    lowest = levels[first:last].min()
    if lowest > levels[max(0, first - reach) : last + reach].max() - _PAUSE_DB:
        return None
    is_quiet = np.concatenate([[False], levels[first:last] <= lowest + _PAUSE_RISE_DB, [False]])
    edges = np.flatnonzero(is_quiet[1:] != is_quiet[:-1]).reshape(-1, 2)
    longest = edges[np.argmax(edges[:, 1] - edges[:, 0])]
    return first + int(longest[0]), first + int(longest[1])
