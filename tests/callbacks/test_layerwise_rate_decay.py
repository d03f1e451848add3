"""Rates fall from the head down to the input, through the whole schedule."""

import pytest
import torch
from tiny_fit import fit, tiny_task

from speechkit.callbacks import LayerwiseRateDecay
from speechkit.callbacks.layerwise_rate_decay import rate_factors

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


def test_factors_by_name() -> None:
    task = tiny_task()
    factors = rate_factors(task, "encoder.layers", 0.5)
    of_name = {name: factors[id(parameter)] for name, parameter in task.named_parameters()}
    assert of_name["encoder.subsampling.convs.0.conv.weight"] == 0.125
    assert of_name["encoder.layers.0.conv.conv.weight"] == 0.25
    assert of_name["encoder.layers.1.conv.conv.weight"] == 0.5
    assert of_name["head.projection.weight"] == 1.0


def test_rates_are_the_schedule_times_the_factors() -> None:
    _, plain = fit()
    _, decayed = fit(LayerwiseRateDecay(0.5))
    assert len(decayed.rates[0]) > len(plain.rates[0])
    for before, after in zip(plain.rates, decayed.rates, strict=True):
        assert {round(rate / before[0], 6) for rate in after} == {0.125, 0.25, 0.5, 1.0}


def test_without_decay_it_changes_nothing() -> None:
    task, _ = fit(LayerwiseRateDecay(1.0))
    plain, _ = fit()
    assert all(torch.equal(value, plain.get_parameter(name)) for name, value in task.named_parameters())


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="`decay` must lie in"):
        LayerwiseRateDecay(0.0)
    with pytest.raises(ValueError, match=r"encoder\.blocks"):
        fit(LayerwiseRateDecay(layers="encoder.blocks"))
