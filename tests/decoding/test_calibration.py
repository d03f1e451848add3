"""Calibration: the error by hand, and the temperature that made the confidences is found again."""

import numpy as np
import pytest

from speechkit.decoding.calibration import expected_calibration_error, fit_temperature, log_loss


def test_the_error_by_hand() -> None:
    confidences, right = [0.95, 0.91, 0.55, 0.51, 1.0], [True, False, True, True, True]
    by_hand = (abs((0.95 + 0.91 + 1.0) - 2) + abs((0.55 + 0.51) - 2)) / 5
    assert expected_calibration_error(confidences, right) == pytest.approx(by_hand)


def test_the_loss_by_hand() -> None:
    assert log_loss([0.9, 0.4], [True, False]) == pytest.approx(-(np.log(0.9) + np.log(0.6)) / 2)
    assert np.isfinite(log_loss([1.0, 0.0], [False, True]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature: float) -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(1.0, 2.0, 20000)
    right = generator.random(20000) < 1 / (1 + np.exp(-scores / temperature))

    def confidences_at(value: float) -> np.ndarray:
        return 1 / (1 + np.exp(-scores / value))

    assert fit_temperature(confidences_at, right) == pytest.approx(temperature, rel=0.05)
    assert expected_calibration_error(confidences_at(temperature), right) < 0.02


def test_nothing_to_look_at() -> None:
    with pytest.raises(ValueError, match="must hold as many words, and some, got 0 and 0"):
        expected_calibration_error([], [])
    with pytest.raises(ValueError, match="got 2 and 1"):
        log_loss([0.5, 0.5], [True])
