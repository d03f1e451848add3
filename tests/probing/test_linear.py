"""The linear probe reaches the optimum and says no more than a linear map can."""

import math

import pytest
import torch
import torch.nn.functional as F

from speechkit.probing import LinearProbe


def test_the_optimum_is_reached() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(500, 6) * torch.tensor([1.0, 100, 1e-3, 1, 1, 1]) + 5.0, torch.randint(3, (500,))
    fitted = LinearProbe(3, l2=0.01).fit(features, labels)
    x = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    weight, bias = fitted.weight.clone().requires_grad_(), fitted.bias.clone().requires_grad_()
    (F.cross_entropy(F.linear(x, weight, bias), labels) + 0.005 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-4
    assert bias.grad.abs().max() < 1e-4


def test_classes_apart_are_told_apart_and_noise_is_not() -> None:
    torch.manual_seed(0)
    centres = 4.0 * torch.randn(5, 8)
    labels = torch.arange(1000) % 5
    features = centres[labels] + torch.randn(1000, 8)
    fitted = LinearProbe(5).fit(features[:500], labels[:500])
    assert fitted.accuracy(features[500:], labels[500:]) > 0.97
    torch.testing.assert_close(fitted.log_probs(features).exp().sum(dim=1), torch.ones(1000))
    noise = torch.randn(1000, 8)
    assert LinearProbe(5).fit(noise[:500], labels[:500]).accuracy(noise[500:], labels[500:]) < 0.3


def test_two_gaussians_have_the_accuracy_of_bayes() -> None:
    torch.manual_seed(0)
    labels = torch.arange(40000) % 2
    features = torch.randn(40000, 1) + 2.0 * labels[:, None]
    expected = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    assert LinearProbe(2).fit(features, labels).accuracy(features, labels) == pytest.approx(expected, abs=0.01)


def test_a_constant_feature_and_no_frames() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    assert LinearProbe(2).fit(torch.ones(4, 2), labels).log_probs(torch.ones(4, 2)).isfinite().all()
    with pytest.raises(ValueError, match="features"):
        LinearProbe(2).fit(torch.zeros(0, 2), labels[:0])
