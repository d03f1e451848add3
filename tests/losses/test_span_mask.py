"""Span masks: how much they hide, and where."""

import pytest
import torch

from speechkit.losses import span_mask


def runs(row: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    return [len(run) for run in "".join("x" if value else " " for value in row.tolist()).split()]


def test_half_of_the_frames_are_masked_as_in_the_paper() -> None:
    """p = 0.065, length 10: about 49 % of the frames (Baevski et al. 2020, section 4.2)."""
    torch.manual_seed(0)
    mask = span_mask(torch.full((200,), 750), 750, start_probability=0.065, span_length=10)
    assert mask.float().mean().item() == pytest.approx(0.49, abs=0.01)
    assert min(min(runs(row)) for row in mask) == 10


def test_masks_stay_inside_and_are_never_empty() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([0, 1, 2, 3, 19, 20, 40] * 50)
    mask = span_mask(lengths, 45, start_probability=0.01, span_length=10)
    assert not mask[torch.arange(45) >= lengths[:, None]].any()
    counts = mask.sum(dim=1)
    assert (counts[lengths < 2] == 0).all()
    assert (counts[lengths >= 2] >= 1).all()
    assert (counts < lengths)[lengths >= 2].all()
    assert set(counts[lengths == 20].tolist()) == {10}


def test_starts_are_distinct_and_as_many_as_asked_in_the_mean() -> None:
    torch.manual_seed(0)
    mask = span_mask(torch.full((4000,), 25), 30, start_probability=0.1, span_length=1)
    assert mask.sum(dim=1).unique().tolist() == [2, 3]
    assert mask.float().mean(dim=0)[:25].sum().item() == pytest.approx(2.5, abs=0.05)
    torch.testing.assert_close(mask.float().mean(dim=0)[:25], torch.full((25,), 0.1), atol=0.02, rtol=0)
    assert span_mask(torch.tensor([6]), 6, start_probability=1.0, span_length=1).all()


def test_is_a_function_of_the_seed() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(span_mask(torch.tensor([100, 80]), 100, start_probability=0.065, span_length=10))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_a_seeded_mask_depends_on_nothing_but_the_seed() -> None:
    """Neither on the utterance's place in the batch nor on the padding."""
    options = {"start_probability": 0.065, "span_length": 10}
    whole = span_mask(torch.tensor([100, 80, 60]), 100, **options, seeds=[1, 2, 3])
    assert torch.equal(span_mask(torch.tensor([80, 60]), 90, **options, seeds=[2, 3]), whole[1:, :90])
    assert not torch.equal(span_mask(torch.tensor([100]), 100, **options, seeds=[4]), whole[:1])
    with pytest.raises(ValueError, match="`seeds` must be as many as utterances, 1, got 2"):
        span_mask(torch.tensor([9]), 9, **options, seeds=[1, 2])


@pytest.mark.parametrize(
    ("name", "value"), [("start_probability", 0.0), ("start_probability", 1.1), ("span_length", 0)]
)
def test_wrong_arguments_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must"):
        span_mask(torch.tensor([9]), 9, **{"start_probability": 0.1, "span_length": 3, name: value})
