"""MaskedBatchNorm1d against torch's batch norm on the frames that are real."""

import torch
from torch import nn

from speechkit.encoders.normalization import MaskedBatchNorm1d


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
