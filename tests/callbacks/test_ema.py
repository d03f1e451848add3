"""The average of the weights against a loop, and what cannot be averaged."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from tiny_fit import Recorded, fit, tiny_batch, tiny_task, tiny_trainer
from torch.utils.data import DataLoader

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


def test_a_second_training_has_an_average_of_its_own() -> None:
    ema = EMA(decay=0.5, warmup=False)
    fit(ema)
    task, recorded = fit(ema)
    alone, _ = fit(EMA(decay=0.5, warmup=False))
    for name, value in task.named_parameters():
        assert torch.equal(value, dict(alone.named_parameters())[name])
    assert any(not torch.equal(value, recorded.weights[-1][name]) for name, value in task.named_parameters())


def test_validation_after_training_is_of_the_task_that_is_given() -> None:
    ema, task = EMA(), tiny_task()
    trainer = tiny_trainer(ema, steps=2)
    loader = DataLoader([tiny_batch()] * 2, batch_size=None)
    trainer.fit(task, loader)
    with torch.no_grad():
        task.head.projection.weight.zero_()
    before = {name: value.clone() for name, value in task.named_parameters()}
    (figures,) = trainer.validate(task, loader, verbose=False)
    plain = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (expected,) = plain.validate(task, loader, verbose=False)
    assert figures == expected
    assert all(torch.equal(value, before[name]) for name, value in task.named_parameters())


def test_the_last_checkpoint_still_has_the_weights_that_were_trained(tmp_path: Path) -> None:
    recorded, ema = Recorded(), EMA(decay=0.9, warmup=False)
    trainer = tiny_trainer(ema, recorded, steps=4)
    task = tiny_task()
    trainer.fit(task, DataLoader([tiny_batch()] * 4, batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    name = "head.projection.weight"
    assert torch.equal(content["current_model_state"][name], recorded.weights[-1][name])
    assert torch.equal(content["state_dict"][name], task.state_dict()[name])
    assert not torch.equal(content["state_dict"][name], recorded.weights[-1][name])
