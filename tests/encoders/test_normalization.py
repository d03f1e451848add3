"""MaskedBatchNorm1d against torch's batch norm on the frames that are real."""

import torch
from torch import nn

from speechkit.encoders.normalization import MaskedBatchNorm1d, masked_norm
from speechkit.masking import length_mask


def test_is_torchs_batch_norm_of_the_real_frames() -> None:
    ours, theirs = MaskedBatchNorm1d(5), nn.BatchNorm1d(5)
    x = torch.randn(3, 5, 20) * 3 + 2
    lengths = torch.tensor([20, 13, 1])
    real = torch.cat([row[:, :length] for row, length in zip(x, lengths.tolist(), strict=True)], dim=1)
    expected = theirs(real.T)
    got = ours(x, lengths)
    got = torch.cat([row[:, :length] for row, length in zip(got, lengths.tolist(), strict=True)], dim=1).T
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x, lengths), theirs.eval()(x), atol=1e-5, rtol=1e-5)


def test_a_batch_without_frames_leaves_the_running_statistics() -> None:
    norm = MaskedBatchNorm1d(3).train()
    norm.running_mean.fill_(5.0)
    norm(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long))
    assert norm.running_mean.tolist() == [5.0] * 3
    assert norm.running_var.tolist() == [1.0] * 3


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
    assert not x.grad[~mask.expand_as(x)].any()  # what is padding has no say
