"""The stages of quantization-aware training, and the pull towards the float model."""

import pytest
import torch

from speechkit.callbacks import FloatTeacher, QuantizationAwareTraining, distillation_loss


def test_distillation_is_zero_at_the_teacher_and_grows_with_the_distance() -> None:
    teacher = torch.randn(2, 5, 4)
    lengths = torch.tensor([5, 3])
    nothing = distillation_loss(teacher, teacher, lengths)
    assert torch.equal(nothing, torch.zeros(2))
    near, far = (distillation_loss(teacher + step * torch.eye(4)[0], teacher, lengths) for step in (0.1, 1.0))
    assert (near < far).all()


def test_distillation_looks_at_real_frames_only() -> None:
    teacher, lengths = torch.randn(2, 5, 4), torch.tensor([5, 3])
    student = teacher.clone()
    student[1, 3:] += torch.randn(2, 4)
    assert torch.equal(distillation_loss(student, teacher, lengths), torch.zeros(2))


@pytest.mark.parametrize("arguments", [{"observe_batches": 0}, {"freeze_fraction": 1.5}])
def test_wrong_schedules(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        QuantizationAwareTraining(**arguments)


def test_wrong_weights() -> None:
    with pytest.raises(ValueError, match="`weight` and `temperature` must be positive, got 0"):
        FloatTeacher(weight=0.0)
