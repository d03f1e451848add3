"""The written-out gradient of a batch norm over real frames."""

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor

from speechkit.encoders.normalization import MaskedBatchNorm1d
from speechkit.masking import length_mask
from speechkit.quantization.masked_norm import masked_norm


def test_without_padding_it_is_that_of_torch() -> None:
    x, gain, shift = torch.randn(4, 3, 9, dtype=torch.double), torch.rand(3).double(), torch.rand(3).double()
    found, mean, var, count = masked_norm(x, torch.ones(4, 1, 9, dtype=torch.bool), gain, shift, 1e-5)
    expected = F.batch_norm(x, None, None, gain, shift, training=True, eps=1e-5)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mean, x.mean(dim=(0, 2)))
    torch.testing.assert_close(var, x.var(dim=(0, 2), unbiased=False))
    assert count.tolist() == [36]


def test_padding_has_no_say() -> None:
    x = torch.randn(2, 3, 8, dtype=torch.double)
    x[1, :, 5:] = 1e6
    mask = length_mask(torch.tensor([8, 5]), 8)[:, None, :]
    gain, shift = torch.rand(3).double(), torch.rand(3).double()
    found = masked_norm(x, mask, gain, shift, 1e-5)[0]
    real = x.movedim(1, 2)[mask[:, 0]]
    expected = F.batch_norm(real, None, None, gain, shift, training=True, eps=1e-5)
    torch.testing.assert_close(found.movedim(1, 2)[mask[:, 0]], expected)
    torch.testing.assert_close(found[1, :, 5:], shift[:, None].expand(3, 3))


def test_gradients_are_those_of_finite_differences() -> None:
    mask = length_mask(torch.tensor([6, 4, 0]), 6)[:, None, :]
    x = (torch.randn(3, 2, 6, dtype=torch.double) * 2 + 1).requires_grad_()
    gain, shift = (torch.randn(2, dtype=torch.double, requires_grad=True) for _ in range(2))
    eps = torch.tensor([0.1, 2.0], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda *inputs: masked_norm(inputs[0], mask, *inputs[1:], eps)[0], (x, gain, shift))
    y, *statistics = masked_norm(x, mask, gain, shift, eps)
    assert not any(tensor.requires_grad for tensor in statistics)
    y.square().sum().backward()
    assert x.grad is not None
    assert not x.grad[~mask.expand_as(x)].any()


def test_a_batch_without_frames_gives_no_gradient() -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    y, mean, var, count = masked_norm(x, torch.zeros(2, 1, 4, dtype=torch.bool), torch.ones(3), torch.ones(3), 1e-5)
    y.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
    assert mean.tolist() == var.tolist() == [0.0] * 3
    assert count.tolist() == [0.0]


def material() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (B, C, T), mask (B, 1, T), gain and weights of the loss (C,)."""
    torch.manual_seed(3)
    x = torch.randn(4, 3, 6, dtype=torch.double, requires_grad=True)
    mask = length_mask(torch.tensor([6, 3, 0, 5]), 6)[:, None, :]
    return x, mask, torch.rand(3).double().requires_grad_(), torch.randn(4, 3, 6, dtype=torch.double)


def rank_job(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    norm = MaskedBatchNorm1d(3)
    norm.synchronize = True
    x, mask, gain, weights = material()
    own = slice(2 * rank, 2 * rank + 2)
    y, *statistics = masked_norm(x[own], mask[own], gain, torch.zeros(3).double(), 1e-5, norm.joined)
    (y * weights[own]).sum().backward()
    assert x.grad is not None
    assert gain.grad is not None
    torch.distributed.all_reduce(gain.grad)
    torch.save((y.detach(), x.grad[own], gain.grad, statistics), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_statistics_and_gradients_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank_job, args=(str(tmp_path),), nprocs=2)
    x, mask, gain, weights = material()
    y, *statistics = masked_norm(x, mask, gain, torch.zeros(3).double(), 1e-5)
    (y * weights).sum().backward()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([found[0] for found in ranks]), y)
    torch.testing.assert_close(torch.cat([found[1] for found in ranks]), x.grad)
    for _, _, of_gain, of_rank in ranks:
        torch.testing.assert_close(of_gain, gain.grad)
        torch.testing.assert_close(of_rank, statistics)
