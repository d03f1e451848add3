"""The divergence of two views against a loop over frames, and where its gradient goes."""

import pytest
import torch

from speechkit.losses import frame_divergence


def by_hand(view: torch.Tensor, target: torch.Tensor, length: int, least: float, temperature: float) -> float:
    total = 0.0
    for frame in range(length):
        if target[frame].softmax(dim=0).max() < least:
            continue
        p, q = (target[frame] / temperature).softmax(dim=0), view[frame].softmax(dim=0)
        total += sum(float(p[v] * (p[v] / q[v]).log()) for v in range(len(p)))
    return total


@pytest.mark.parametrize(("least", "temperature"), [(0.0, 1.0), (0.5, 1.0), (0.5, 0.4), (1.0, 1.0)])
def test_sum_over_sure_frames(least: float, temperature: float) -> None:
    torch.manual_seed(0)
    view, target, lengths = torch.randn(3, 9, 4), 2 * torch.randn(3, 9, 4), torch.tensor([9, 1, 0])
    expected = [by_hand(*rows, least, temperature) for rows in zip(view, target, lengths.tolist(), strict=True)]
    found = frame_divergence(view, target, lengths, min_confidence=least, temperature=temperature)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_only_the_view_learns_and_only_from_its_own_frames() -> None:
    view, target = (torch.randn(2, 5, 3, requires_grad=True) for _ in range(2))
    frame_divergence(view, target, torch.tensor([5, 2])).sum().backward()
    expected = view.softmax(dim=-1) - target.softmax(dim=-1)
    torch.testing.assert_close(view.grad[0], expected[0])
    assert not view.grad[1, 2:].any()
    assert target.grad is None
    assert frame_divergence(view, view, torch.tensor([5, 2])).abs().max() < 1e-6


def test_views_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have the shape of `logits`, \(1, 5, 3\), got \(1, 6, 3\)"):
        frame_divergence(torch.zeros(1, 5, 3), torch.zeros(1, 6, 3), torch.tensor([5]))
