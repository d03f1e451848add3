"""Best-path decoding: the likeliest id of each frame, repeats collapsed, blanks dropped (Graves et al. 2006, 3.2)."""

import torch
from torch import Tensor

from speechkit.decoding.hypothesis import Hypothesis


class GreedySearch:
    """The likeliest path of each utterance, as a decoder: one hypothesis, whose score is the path's.

    Args:
        blank: id of the blank.
    """

    def __init__(self, *, blank: int = 0) -> None:
        self.blank = blank

    def decode(self, logits: Tensor, lengths: Tensor, *, num_best: int | None = None) -> list[list[Hypothesis]]:
        """logits (B, T, V), lengths (B,) -> the one hypothesis of each, whatever number is asked for."""
        best = logits.log_softmax(dim=-1).amax(dim=-1).cumsum(dim=1).cpu()
        scores = [float(row[length - 1]) if length else 0.0 for row, length in zip(best, lengths.tolist(), strict=True)]
        labels = greedy_decode(logits, lengths, blank=self.blank)
        return [[Hypothesis(row, score, score, 0.0)] for row, score in zip(labels, scores, strict=True)]


def greedy_decode(logits: Tensor, lengths: Tensor, *, blank: int = 0) -> list[list[int]]:
    """logits (B, T, V), lengths (B,) -> label ids of each utterance."""
    best = logits.argmax(dim=-1).cpu()
    return [
        [label for label in torch.unique_consecutive(path[:length]).tolist() if label != blank]
        for path, length in zip(best, lengths.tolist(), strict=True)
    ]


def greedy_spans(logits: Tensor, *, blank: int = 0) -> tuple[list[int], list[int], list[int]]:
    """logits (T, V) of one utterance -> its label ids, and the first frame and the frame after the last of each."""
    symbols, counts = torch.unique_consecutive(logits.argmax(dim=-1).cpu(), return_counts=True)
    ends = counts.cumsum(dim=0)
    runs = zip(symbols.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
    labels, firsts, lasts = [], [], []
    for symbol, first, last in runs:
        if symbol != blank:
            labels.append(symbol)
            firsts.append(first)
            lasts.append(last)
    return labels, firsts, lasts
