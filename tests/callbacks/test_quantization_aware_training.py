"""The stages of quantization-aware training, and the pull towards the float model."""

from types import SimpleNamespace

import pytest

from speechkit.callbacks import FloatTeacher, QuantizationAwareTraining
from speechkit.quantization.quantized_network import QuantizedNetwork


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
