"""When each word of a transcript is said, and how sure the recogniser is of it: the best path of CTC through it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.losses import ctc_align, ctc_feasible
from speechkit.text import Tokenizer


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
    logits: Tensor, lengths: Tensor, labels: Sequence[Sequence[int]], tokenizer: Tokenizer, *, temperature: float = 1.0
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
