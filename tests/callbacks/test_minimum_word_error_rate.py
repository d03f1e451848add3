"""Sequence risk: samples, their errors, and the gradient against REINFORCE by hand and all paths enumerated."""

import itertools

import pytest
import torch

from speechkit.callbacks import MinimumWordErrorRate
from speechkit.callbacks.minimum_word_error_rate import expected_risk, sample_paths, word_error_rates
from speechkit.text import CharTokenizer


def test_samples_follow_the_posteriors_and_the_seeds() -> None:
    logits = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(2, 2000, 4)
    paths = sample_paths(logits, 5, [1, 2])
    shares = torch.bincount(paths.flatten(), minlength=4) / paths.numel()
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.0, 0.3, 0.2]), atol=0.01, rtol=0)
    assert not torch.equal(paths[0], paths[1])
    assert torch.equal(sample_paths(logits[1:, :70], 5, [2])[0], paths[1, :70])  # alone, and with less padding


def test_errors_are_those_of_the_collapsed_paths() -> None:
    tokenizer = CharTokenizer(" ab")  # 0 blank, 1 space, 2 a, 3 b
    paths = torch.tensor(
        [
            [[2, 2, 2], [2, 0, 1], [0, 2, 3], [1, 1, 0], [3, 3, 0]],  # "a b", "aa b", "a b"
            [[0, 2, 3], [0, 0, 1], [0, 0, 2], [0, 0, 0], [0, 0, 0]],  # "", "a", "b a"
        ]
    )
    assert word_error_rates(paths, [["a", "b"], []], tokenizer).tolist() == [[0.0, 0.5, 0.0], [0.0, 1.0, 2.0]]


def test_gradient_is_reinforce_with_the_mean_of_the_others_as_baseline() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    paths, risks = torch.randint(4, (2, 6, 3)), torch.rand(2, 3, dtype=torch.float64)
    lengths = torch.tensor([6, 4])
    log_probs, surrogate = logits.log_softmax(dim=-1), 0.0
    for b, k in itertools.product(range(2), range(3)):
        baseline = sum(risks[b, j] for j in range(3) if j != k) / 2
        path = sum(log_probs[b, t, paths[b, t, k]] for t in range(lengths[b]))
        surrogate = surrogate + (risks[b, k] - baseline) * path / 3
    result = expected_risk(logits, lengths, paths, risks)
    torch.testing.assert_close(result, risks.mean(dim=1))
    gradients = [torch.autograd.grad(value, logits)[0] for value in (result.sum(), surrogate)]
    torch.testing.assert_close(*gradients)
    assert not gradients[0][1, 4:].any()


def test_estimate_has_no_bias() -> None:
    """The mean over many estimates is the gradient of the expected word error rate, all paths enumerated."""
    tokenizer, copies = CharTokenizer(" a"), 8000
    logits = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 2.0, 1.0], [1.0, 0.0, 0.0]]], requires_grad=True)
    everything = torch.tensor(list(itertools.product(range(3), repeat=3))).T[None]  # (1, T, 27)
    probabilities = logits.log_softmax(dim=-1)[0][torch.arange(3)[:, None], everything[0]].sum(dim=0).exp()
    risk = (probabilities * word_error_rates(everything, [["a"]], tokenizer)[0]).sum()
    (exact,) = torch.autograd.grad(risk, logits)

    many = logits.detach().expand(copies, 3, 3).clone().requires_grad_()
    paths = sample_paths(many, 4, range(copies))
    risks = word_error_rates(paths, [["a"]] * copies, tokenizer)
    estimates = expected_risk(many, torch.full((copies,), 3), paths, risks)
    (gradient,) = torch.autograd.grad(estimates.sum(), many)
    assert estimates.mean().item() == pytest.approx(risk.item(), abs=0.02)
    torch.testing.assert_close(gradient.mean(dim=0), exact[0], atol=0.01, rtol=0)
    assert exact.abs().max() > 0.05


@pytest.mark.parametrize(
    "options", [{"num_samples": 1}, {"start_fraction": 1.0}, {"weight": -1.0}], ids=lambda options: next(iter(options))
)
def test_wrong_options_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must"):
        MinimumWordErrorRate(**options)
