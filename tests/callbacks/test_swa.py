"""The mean of the weights along the last part of a training, its learning rate, and its batch statistics."""

from pathlib import Path

import pytest
import torch
from tiny_fit import fit

from speechkit.callbacks import SWA
from speechkit.encoders.normalization import MaskedBatchNorm1d
from speechkit.masking import length_mask
from speechkit.pipelines.training import parse
from speechkit.tasks import Recognition

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides"),
]
SMALL = Path(__file__).parents[1] / "pipelines" / "small.yaml"


@pytest.mark.parametrize(("every", "steps"), [(1, [4, 5, 6, 7]), (3, [4, 7])])
def test_the_mean_is_that_of_a_list(every: int, steps: list[int]) -> None:
    task, recorded = fit(SWA(start_fraction=0.5, rate_fraction=0.4, every_n_steps=every))
    for name, value in task.named_parameters():
        mean = torch.stack([recorded.weights[step][name] for step in steps]).mean(dim=0)
        torch.testing.assert_close(value, mean, atol=1e-6, rtol=1e-5)
    assert [rates[0] for rates in recorded.rates[4:]] == pytest.approx([4e-4] * 4)


def test_before_the_start_nothing_is_different() -> None:
    _, with_swa = fit(SWA(start_fraction=0.5))
    _, without = fit()
    for name in with_swa.weights[3]:
        assert torch.equal(with_swa.weights[3][name], without.weights[3][name])
    assert not torch.equal(with_swa.weights[7][name], without.weights[7][name])


def test_statistics_are_those_of_the_averaged_weights(corpus: Path) -> None:
    options = ["limit_val_batches=0", "logger=false", "enable_checkpointing=false"]
    overrides = ["data.num_workers=0", "model.front_end.init_args.cmvn=null", *(f"trainer.{name}" for name in options)]
    cli = parse(Recognition, [SMALL], overrides)
    task, trainer = cli.model, cli.trainer
    trainer.callbacks.append(SWA(start_fraction=0.5))
    trainer.fit(task, datamodule=cli.datamodule)
    norm = next(part for part in task.modules() if isinstance(part, MaskedBatchNorm1d))
    means, variances = [], []

    def measure(module: MaskedBatchNorm1d, args: tuple[torch.Tensor, torch.Tensor]) -> None:
        frames = args[0].transpose(1, 2)[length_mask(args[1], args[0].shape[2])]
        means.append(frames.mean(dim=0))
        variances.append(frames.var(dim=0))

    norm.register_forward_pre_hook(measure)
    with torch.no_grad():
        for batch in cli.datamodule.plain_batches(8000, batch_seconds=60.0):
            task.eval()(batch.waveform, batch.lengths)
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(dim=0))
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(dim=0))
    assert norm.momentum == 0.1


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="`start_fraction` must lie in"):
        SWA(start_fraction=1.0)
    with pytest.raises(ValueError, match="`every_n_steps` must be positive"):
        SWA(every_n_steps=0)
