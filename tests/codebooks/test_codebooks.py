"""Codebooks: what is chosen, by which draws, and where gradients go."""

import pytest
import torch
from torch import nn

from speechkit.codebooks import GumbelCodebook, KMeansCodebook, joined_codes

BOTH = pytest.mark.parametrize("cls", [GumbelCodebook, KMeansCodebook])


@BOTH
def test_vectors_are_the_code_words(cls: type[nn.Module]) -> None:
    codebook = cls(input_dim=6, num_codes=5, num_groups=3, output_dim=12)
    for mode in (True, False):
        result = codebook.train(mode)(torch.randn(2, 7, 6))
        expected = torch.cat([codebook.codewords[group, result.codes[..., group]] for group in range(3)], dim=-1)
        torch.testing.assert_close(result.vectors, expected)
        assert result.codes.shape == (2, 7, 3)
        torch.testing.assert_close(result.probabilities.sum(dim=-1), torch.ones(2, 7, 3))
        assert result.loss.shape == (2, 7)


@BOTH
def test_gradients_pass_straight_through(cls: type[nn.Module]) -> None:
    codebook = cls(input_dim=6, num_codes=5, num_groups=3, output_dim=12).train()
    x = torch.randn(40, 6, requires_grad=True)
    result = codebook(x)
    ((result.vectors * torch.randn(40, 12)).sum() + result.loss.sum()).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in (x, *codebook.parameters()))


@BOTH
def test_evaluation_takes_the_likeliest_code(cls: type[nn.Module]) -> None:
    result = cls(input_dim=6, num_codes=5).eval()(torch.randn(50, 6))
    assert torch.equal(result.codes, result.probabilities.argmax(dim=-1))


def test_gumbel_draws_by_the_probabilities() -> None:
    torch.manual_seed(0)
    codebook = GumbelCodebook(input_dim=2, num_codes=3, num_groups=1, output_dim=4).train()
    result = codebook(torch.tensor([[0.3, -0.8]]).expand(20000, 2), step=0)
    shares = torch.bincount(result.codes[:, 0], minlength=3) / 20000
    torch.testing.assert_close(shares, result.probabilities[0, 0], atol=0.015, rtol=0)


@pytest.mark.parametrize("step", [0, 3])
def test_gumbel_is_that_of_torch(step: int) -> None:
    """The distribution of codes and the gradient, over many draws."""
    torch.manual_seed(0)
    codebook = GumbelCodebook(input_dim=2, num_codes=3, num_groups=1, output_dim=4, temperature_factor=0.5).train()
    x, direction = torch.tensor([[0.3, -0.8]]).expand(40000, 2), torch.randn(4)
    (codebook(x, step=step).vectors @ direction).mean().backward()
    ours = codebook.projection.bias.grad.clone()
    logits = codebook.projection(x).detach().requires_grad_()
    choice = torch.nn.functional.gumbel_softmax(logits, tau=codebook.temperature(step), hard=True)
    (choice @ codebook.codewords[0].detach() @ direction).mean().backward()
    torch.testing.assert_close(ours, logits.grad.sum(dim=0), atol=3e-3, rtol=0)


def test_a_seeded_draw_depends_on_nothing_but_the_seed() -> None:
    """Neither on the utterance's place in the batch nor on the padding."""
    torch.manual_seed(0)
    codebook, x = GumbelCodebook(input_dim=6, num_codes=9).train(), torch.randn(3, 40, 6)
    whole = codebook(x, step=0, seeds=[1, 2, 3])
    assert torch.equal(codebook(x[[2]][:, :17], step=0, seeds=[3]).codes[0], whole.codes[2, :17])
    assert not torch.equal(codebook(x, step=0, seeds=[4, 5, 6]).codes, whole.codes)
    with pytest.raises(ValueError, match="`seeds` must be as many as utterances, 3, got 2"):
        codebook(x, step=0, seeds=[1, 2])


def test_training_without_a_step_takes_the_likeliest_code() -> None:
    torch.manual_seed(0)
    codebook, x = GumbelCodebook(input_dim=6, num_codes=9).train(), torch.randn(40, 6)
    result = codebook(x)
    assert torch.equal(result.codes, codebook.eval()(x).codes)
    assert result.vectors.requires_grad
    (gradient,) = torch.autograd.grad(result.vectors.square().sum(), codebook.projection.weight)
    assert gradient.any()


def test_temperature_falls_to_its_end() -> None:
    codebook = GumbelCodebook(input_dim=2, first_temperature=2.0, last_temperature=0.5, temperature_factor=0.5)
    assert [codebook.temperature(step) for step in range(4)] == [2.0, 1.0, 0.5, 0.5]


def test_kmeans_takes_the_nearest_and_moves_both_sides() -> None:
    torch.manual_seed(0)
    codebook = KMeansCodebook(input_dim=4, num_codes=7, num_groups=2, output_dim=8, commitment=0.5)
    x = torch.randn(9, 4)
    z = codebook.projection(x).unflatten(-1, (2, 4))
    z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    distances = (z[:, :, None] - codebook.codewords).square().sum(dim=-1)
    result = codebook(x)
    assert torch.equal(result.codes, distances.argmin(dim=-1))
    torch.testing.assert_close(result.loss, 1.5 * distances.amin(dim=-1).sum(dim=-1) / 8)
    to_words, to_latents = torch.autograd.grad(result.loss.sum(), [codebook.codewords, codebook.projection.weight])
    nearest = distances.amin(dim=-1).sum() / 8
    torch.testing.assert_close(to_words, torch.autograd.grad(nearest, codebook.codewords, retain_graph=True)[0])
    expected = 0.5 * torch.autograd.grad(nearest, codebook.projection.weight)[0]
    torch.testing.assert_close(to_latents, expected, atol=1e-5, rtol=1e-4)


def test_joined_codes_are_one_number_for_each_choice() -> None:
    codes = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(4))
    assert joined_codes(codes, 4).sort().values.tolist() == list(range(64))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: GumbelCodebook(input_dim=4, num_codes=1), "`num_codes` must be at least 2"),
        (lambda: KMeansCodebook(input_dim=4, num_groups=3, output_dim=8), "`num_groups` must divide `output_dim` 8"),
        (lambda: GumbelCodebook(input_dim=4, last_temperature=0.0), "`last_temperature` must lie in"),
        (lambda: GumbelCodebook(input_dim=4, temperature_factor=1.1), "`temperature_factor` must lie in"),
        (lambda: KMeansCodebook(input_dim=4, commitment=-1.0), "`commitment` must not be negative"),
    ],
)
def test_wrong_arguments_are_named(make, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make()
