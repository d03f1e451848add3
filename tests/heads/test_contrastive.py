"""Predictors of CPC: causal, blind to padding, one prediction for each step."""

import pytest
import torch

from speechkit.heads import StepPredictors, TransformerPredictors

PREDICTORS = {
    "linear": lambda: StepPredictors(context_dim=8, latent_dim=5, num_steps=3),
    "transformer": lambda: TransformerPredictors(context_dim=8, latent_dim=5, num_steps=3, dropout=0.0),
    "shared": lambda: TransformerPredictors(context_dim=8, latent_dim=5, num_steps=3, shared=True, dropout=0.0),
}


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("training", [True, False])
def test_later_context_changes_no_earlier_prediction(name: str, training: bool) -> None:
    torch.manual_seed(0)
    head = PREDICTORS[name]().train(training)
    context = torch.randn(2, 9, 8)
    with torch.set_grad_enabled(training):
        whole = head(context)
        assert whole.shape == (2, 9, 3, 5)
        changed = torch.cat([context[:, :6], torch.randn(2, 20, 8)], dim=1)
        torch.testing.assert_close(head(changed)[:, :6], whole[:, :6], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(head(context[:1, :6])[0], whole[0, :6], atol=1e-6, rtol=1e-5)


def test_evaluation_computes_what_training_does() -> None:
    """torch has another path for a transformer layer without gradients."""
    torch.manual_seed(0)
    head = PREDICTORS["transformer"]()
    context = torch.randn(2, 9, 8)
    trained = head(context)
    with torch.inference_mode():
        torch.testing.assert_close(head.eval()(context), trained.detach(), atol=1e-6, rtol=1e-5)


def test_transformer_is_one_for_each_step_and_sees_the_past() -> None:
    torch.manual_seed(0)
    head = PREDICTORS["transformer"]()
    context = torch.randn(1, 9, 8, requires_grad=True)
    prediction = head(context)
    for step in range(3):
        (gradient,) = torch.autograd.grad(prediction[0, 5, step].sum(), context, retain_graph=True)
        assert gradient[0, :6].abs().sum(dim=-1).min() > 0
        assert not gradient[0, 6:].any()
    of_steps = [sum(p.numel() for p in PREDICTORS[name]().layers.parameters()) for name in ("transformer", "shared")]
    assert of_steps[0] == 3 * of_steps[1]
    prediction.square().sum().backward()
    assert all(parameter.grad.any() for parameter in head.parameters() if parameter.dim() > 1)


@pytest.mark.parametrize(
    ("options", "said"), [({"num_steps": 0}, "num_steps"), ({"num_heads": 3}, "num_heads"), ({"num_heads": 0}, "num_h")]
)
def test_wrong_calls_name_the_argument(options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TransformerPredictors(**{"context_dim": 8, "latent_dim": 5, "num_steps": 3, **options})
