"""The average of the weights against a loop, and what cannot be averaged."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from tiny_fit import Recorded, fit, tiny_task

from speechkit.callbacks import EMA

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides"),
]


def average(recorded: Recorded, name: str, decays: list[float]) -> torch.Tensor:
    value = recorded.weights[0][name].clone()
    for decay, weights in zip(decays, recorded.weights[1:], strict=True):
        value = decay * value + (1 - decay) * weights[name]
    return value


@pytest.mark.parametrize(
    ("warmup", "decays"), [(False, [0.4] * 7), (True, [min(0.4, (1 + n) / (10 + n)) for n in range(1, 8)])]
)
def test_the_average_is_that_of_a_loop(warmup: bool, decays: list[float]) -> None:
    task, recorded = fit(EMA(decay=0.4, warmup=warmup))
    for name, value in task.named_parameters():
        torch.testing.assert_close(value, average(recorded, name, decays), atol=1e-6, rtol=1e-5)
    assert not torch.equal(task.head.projection.weight, recorded.weights[-1]["head.projection.weight"])


def test_it_is_of_optimizer_steps_not_of_batches() -> None:
    task, recorded = fit(EMA(decay=0.5, warmup=False), steps=4, accumulate_grad_batches=2)
    assert len(recorded.weights) == 4
    name = "head.projection.weight"
    torch.testing.assert_close(task.get_parameter(name), average(recorded, name, [0.5] * 3))


def test_integers_are_copied() -> None:
    counts = [torch.tensor([3]), torch.tensor([8])]
    EMA(decay=0.9, warmup=False)._average(counts[:1], counts[1:], 5)
    assert counts[0].item() == 8


def test_without_decay_it_is_the_weights() -> None:
    task, recorded = fit(EMA(decay=0.0))
    plain, _ = fit()
    for name, value in task.named_parameters():
        assert torch.equal(value, recorded.weights[-1][name])
        assert torch.equal(value, plain.get_parameter(name))


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="`decay` must lie in"):
        EMA(decay=1.0)
    trainer = lightning.Trainer(
        accelerator="cpu", callbacks=[EMAWeightAveraging()], logger=False, enable_checkpointing=False
    )
    with pytest.raises(ValueError, match="EMA and EMAWeightAveraging"):
        EMA().setup(trainer, tiny_task(), "fit")
