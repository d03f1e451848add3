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
