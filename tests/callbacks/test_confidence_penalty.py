"""The entropy of frames against torch's own, and its gradient against automatic differentiation."""

import math

import lightning
import torch
from loss_terms_job import recognition

from speechkit.callbacks import ConfidencePenalty
from speechkit.callbacks.confidence_penalty import mean_entropies


def test_entropies_and_their_gradient() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(3, 7, 5, dtype=torch.float64)).requires_grad_()
    lengths = torch.tensor([7, 1, 0])
    entropies = torch.distributions.Categorical(logits=logits).entropy()
    expected = torch.stack([entropies[0].mean(), entropies[1, 0], torch.zeros((), dtype=torch.float64)])
    weights = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    result = mean_entropies(logits, lengths)
    torch.testing.assert_close(result, expected)
    gradients = [torch.autograd.grad((weights * value).sum(), logits)[0] for value in (result, expected)]
    torch.testing.assert_close(*gradients)


def test_impossible_symbols_and_certainty_have_a_gradient_of_zero() -> None:
    logits = torch.tensor([[[0.0, -torch.inf, 0.0], [200.0, 0.0, 0.0]]], requires_grad=True)
    entropies = mean_entropies(logits, torch.tensor([2]))
    (gradient,) = torch.autograd.grad(entropies.sum(), logits)
    torch.testing.assert_close(entropies, torch.tensor([math.log(2) / 2]))
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_certainty_costs_up_to_the_logarithm_of_the_vocabulary() -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    task, callback = recognition(), ConfidencePenalty(0.5)
    target = torch.tensor([[1]]), torch.tensor([4]), torch.tensor([1])
    for logits, penalty in ((torch.zeros(1, 4, 5), -0.5 * math.log(5)), (1e3 * torch.eye(5)[None, :4], 0.0)):
        plain = task.loss(logits, *target)
        callback.setup(trainer, task, "fit")
        torch.testing.assert_close(task.loss(logits, *target), plain + penalty)
        callback.teardown(trainer, task, "fit")
