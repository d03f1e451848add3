"""The stages of quantization-aware training, and the pull towards the float model."""

from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from tiny_fit import fit, tiny_task

from speechkit.callbacks import FloatTeacher, QuantizationAwareTraining
from speechkit.encoders import SeparableConvEncoder
from speechkit.heads import CTCHead
from speechkit.quantization import UNIT_VARIANCE
from speechkit.quantization.conversion import quantized_network
from speechkit.quantization.quantized_network import QuantizedNetwork
from speechkit.tasks import Recognition

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]


@pytest.mark.parametrize("arguments", [{"observe_batches": 0}, {"freeze_fraction": 1.5}])
def test_wrong_schedules(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        QuantizationAwareTraining(**arguments)


@pytest.mark.parametrize("arguments", [{"weight": -1.0}, {"temperature": 0.0}])
def test_wrong_distillation(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be"):
        FloatTeacher(**arguments)


def test_scaled_gradients_are_refused() -> None:
    task = SimpleNamespace(encoder=QuantizedNetwork.__new__(QuantizedNetwork))
    trainer = SimpleNamespace(precision="16-mixed")  # a CPU's trainer cannot have it
    with pytest.raises(ValueError, match=r"`trainer\.precision` must be 32-true or bf16-mixed"):
        QuantizationAwareTraining().setup(trainer, task, "fit")


def quantized_task() -> Recognition:
    """With a network that was never calibrated."""
    task = tiny_task()
    encoder = SeparableConvEncoder(input_dim=8, channels=8, kernel_sizes=(3,), output_dim=8)
    network = quantized_network(encoder, CTCHead(input_dim=8, vocab_size=3), qparams=UNIT_VARIANCE)
    task.encoder, task.head = network.train(), tiny_task().head.__class__(input_dim=3, vocab_size=3)
    return task


class Stages(lightning.Callback):
    """In which state each step was taken."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []
        self.means: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        layers = pl_module.encoder.layers
        self.seen.append((layers[0].mode, layers[0].frozen))
        (norm, *_) = [part.norm for layer in layers for part in layer.parts if part.norm is not None]
        self.means.append(norm.running_mean.clone())


def test_the_stages_of_a_training() -> None:
    stages = Stages()
    _, recorded = fit(
        QuantizationAwareTraining(observe_batches=2, freeze_fraction=0.75), stages, steps=8, task=quantized_task()
    )
    assert stages.seen == [("observe", True)] * 2 + [("quantize", False)] * 4 + [("quantize", True)] * 2
    first, observed, *_, last = recorded.weights
    own = [name for name in first if name.startswith("encoder.") and name.endswith("weight")]
    assert all(torch.equal(first[name], observed[name]) for name in own)
    assert any(not torch.equal(observed[name], last[name]) for name in own)
    assert not torch.equal(stages.means[2], stages.means[5])
    assert torch.equal(stages.means[6], stages.means[7])


def test_a_network_that_was_calibrated_is_not_observed_and_may_be_frozen_at_once() -> None:
    task, stages = quantized_task(), Stages()
    network: Any = task.encoder
    network.eval().set_mode("observe")
    network(torch.randn(2, 40, 8), torch.tensor([40, 30]))
    network.calibrate()
    network.train()
    fit(QuantizationAwareTraining(freeze_fraction=0.0), stages, steps=3, task=task)
    assert stages.seen == [("quantize", True)] * 3
