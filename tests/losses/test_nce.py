"""Noise-contrastive estimation against loops, and on a density whose parameters and normaliser are known."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_infonce import comparisons, random_batch
from torch import Tensor

from speechkit.losses import contrastive_nce, draw_negatives, draw_negatives_per_anchor, nce


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > -30 else x


@pytest.mark.parametrize("noise_ratio", [None, 1.0, 7.5])
def test_is_the_loop_over_data_points(noise_ratio: float | None) -> None:
    torch.manual_seed(0)
    data, noise = torch.randn(2, 5), torch.randn(2, 5, 3)
    data_log_noise, noise_log_noise = torch.randn(2, 5), torch.randn(2, 5, 3)
    lengths = torch.tensor([5, 2])
    result = nce(
        data, noise, data_log_noise=data_log_noise, noise_log_noise=noise_log_noise,
        noise_ratio=noise_ratio, lengths=lengths,
    )  # fmt: skip
    shift = math.log(3 if noise_ratio is None else noise_ratio)
    for b, length in enumerate(lengths.tolist()):
        total, hits, gap = 0.0, 0, 0.0
        for t in range(length):
            logit = (data - data_log_noise)[b, t].item() - shift
            others = [value - shift for value in (noise - noise_log_noise)[b, t].tolist()]
            total -= log_sigmoid(logit) + sum(log_sigmoid(-value) for value in others)
            hits += logit > max(others)
            gap += (data[b, t] - noise[b, t].mean()).item()
        assert result.loss[b].item() == pytest.approx(total / length, rel=1e-5)
        assert result.accuracy[b].item() == pytest.approx(hits / length)
        assert result.score_gap[b].item() == pytest.approx(gap / length, rel=1e-5)
    assert result.predictions.tolist() == [5, 2]


def test_recovers_a_gaussian_and_its_partition_function() -> None:
    """A correlated Gaussian in two dimensions whose model knows neither its normaliser nor the noise's shape."""
    torch.manual_seed(0)
    mean, precision = torch.tensor([1.0, -0.5]).double(), torch.tensor([[2.0, 0.7], [0.7, 1.0]]).double()
    truth = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    proposal = torch.distributions.MultivariateNormal(torch.zeros(2).double(), 4 * torch.eye(2).double())
    data, noise = truth.sample((1, 20_000)), proposal.sample((1, 20_000, 10))
    at_data, at_noise = proposal.log_prob(data), proposal.log_prob(noise)
    center = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    root = torch.eye(2, dtype=torch.float64, requires_grad=True)
    minus_log_partition = torch.zeros((), dtype=torch.float64, requires_grad=True)
    parameters = [center, root, minus_log_partition]
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def log_model(x: Tensor) -> Tensor:
        return -0.5 * ((x - center) @ root).square().sum(dim=-1) + minus_log_partition

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nce(log_model(data), log_model(noise), data_log_noise=at_data, noise_log_noise=at_noise).loss.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    log_partition = math.log(2 * math.pi) - 0.5 * torch.logdet(precision).item()
    assert -minus_log_partition.item() == pytest.approx(log_partition, abs=0.03)
    torch.testing.assert_close(center.detach(), mean, atol=0.03, rtol=0)
    torch.testing.assert_close((root @ root.T).detach(), precision, atol=0.08, rtol=0)


@pytest.mark.parametrize("chunk_size", [5, 12])
@pytest.mark.parametrize("noise_ratio", [None, 1.0])
@pytest.mark.parametrize("anchors", [False, True])
def test_contrastive_form_is_the_loop_over_predictions(anchors: bool, noise_ratio: float | None, chunk_size) -> None:
    torch.manual_seed(0)
    predictions, latents, lengths = random_batch(anchors=anchors)
    negatives = draw_negatives_per_anchor(lengths, 12) if anchors else draw_negatives(lengths, 12, source="mixed")
    result = contrastive_nce(
        predictions, latents, lengths, negatives, noise_ratio=noise_ratio, temperature=0.5, chunk_size=chunk_size
    )
    terms, gaps = [[] for _ in lengths], [[] for _ in lengths]
    shift = math.log(12 if noise_ratio is None else noise_ratio)
    for b, prediction, target, places in comparisons(predictions, lengths, negatives):
        positive = prediction @ latents[b, target] / 0.5 - shift
        others = torch.stack([latents[place] for place in places]) @ prediction / 0.5 - shift
        gaps[b].append(0.5 * (positive - others.mean()).item())
        terms[b].append(-F.logsigmoid(positive) - F.logsigmoid(-others).sum())
    losses = torch.stack([torch.stack(row).mean() for row in terms])
    torch.testing.assert_close(result.loss, losses)
    assert result.score_gap.tolist() == pytest.approx([sum(row) / len(row) for row in gaps])
    assert result.predictions.tolist() == [len(row) for row in terms]
    for mine, theirs in zip(
        torch.autograd.grad(result.loss.sum(), [predictions, latents], retain_graph=True),
        torch.autograd.grad(losses.sum(), [predictions, latents]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_contrastive_form_is_the_estimator_of_its_scores() -> None:
    """Where no negative is left out, the two functions are one."""
    torch.manual_seed(0)
    predictions, latents, lengths = random_batch(anchors=True)
    negatives = draw_negatives_per_anchor(lengths, 6)
    data = (predictions * latents).sum(dim=-1)
    chosen = torch.stack([latents[b][negatives.frame[b]] for b in range(3)])
    noise = (predictions[:, :, None] * chosen).sum(dim=-1)
    expected = nce(data, noise, lengths=lengths)
    got = contrastive_nce(predictions, latents, lengths, negatives, noise_ratio=None)
    torch.testing.assert_close(got.loss, expected.loss)
    torch.testing.assert_close(got.accuracy.float(), expected.accuracy)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: nce(torch.zeros(2, 3), torch.zeros(2, 4, 5)), "noise_scores"),
        (lambda: nce(torch.zeros(2, 3), torch.zeros(2, 3, 0)), "noise_scores"),
        (lambda: nce(torch.zeros(2, 3), torch.zeros(2, 3, 4), noise_ratio=0.0), "noise_ratio"),
    ],
)
def test_wrong_calls_name_the_argument(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
