"""Best-path decoding."""

from itertools import groupby

import pytest
import torch
from torch.nn.functional import one_hot

from speechkit.decoding import greedy_decode


def decode(path: list[int], *, length: int | None = None, blank: int = 0) -> list[int]:
    logits = one_hot(torch.tensor([path]), 5).float()
    return greedy_decode(logits, torch.tensor([len(path) if length is None else length]), blank=blank)[0]


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ([1, 1, 2, 2], [1, 2]),
        ([1, 0, 1], [1, 1]),
        ([0, 0, 0], []),
        ([0, 3, 3, 0, 0, 3, 1, 0], [3, 3, 1]),
        ([4], [4]),
    ],
)
def test_repeats_collapse_and_blanks_drop(path: list[int], labels: list[int]) -> None:
    assert decode(path) == labels


def test_frames_beyond_the_length_are_ignored() -> None:
    assert decode([1, 2, 3, 4], length=2) == [1, 2]
    assert decode([1, 2], length=0) == []


def test_blank_may_be_any_id() -> None:
    assert decode([4, 0, 4, 0, 0], blank=4) == [0, 0]


def test_batch_equals_each_alone() -> None:
    logits, lengths = torch.randn(4, 30, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([30, 1, 17, 0])
    alone = [greedy_decode(logits[i : i + 1], lengths[i : i + 1])[0] for i in range(4)]
    best = logits.argmax(dim=-1)
    naive = [[label for label, _ in groupby(best[i, : lengths[i]].tolist()) if label != 0] for i in range(len(lengths))]
    assert greedy_decode(logits, lengths) == alone == naive
