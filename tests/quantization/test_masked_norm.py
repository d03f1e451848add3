"""The written-out gradient of a batch norm over real frames."""

import torch
import torch.nn.functional as F

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
    y, mean, var, _ = masked_norm(x, torch.zeros(2, 1, 4, dtype=torch.bool), torch.ones(3), torch.ones(3), 1e-5)
    y.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
    assert mean.tolist() == var.tolist() == [0.0] * 3
