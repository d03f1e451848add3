"""Best-path decoding: the likeliest id of each frame, repeats collapsed, blanks dropped (Graves et al. 2006, 3.2)."""

import torch
from torch import Tensor


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
