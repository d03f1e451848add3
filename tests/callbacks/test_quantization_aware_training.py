"""The stages of quantization-aware training, and the pull towards the float model."""

import pytest

from speechkit.callbacks import FloatTeacher, QuantizationAwareTraining


@pytest.mark.parametrize("arguments", [{"observe_batches": 0}, {"freeze_fraction": 1.5}])
def test_wrong_schedules(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        QuantizationAwareTraining(**arguments)


@pytest.mark.parametrize("arguments", [{"weight": -1.0}, {"temperature": 0.0}])
def test_wrong_distillation(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be"):
        FloatTeacher(**arguments)
