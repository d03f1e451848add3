"""How well confidences agree with being right, and the temperature with which they do best.

Guo et al. 2017, "On calibration of modern neural networks" (arXiv 1706.04599): temperature scaling is section 4.2, the
expected calibration error equation 3. Here the events are words, and a word's confidence is what `find_words` says.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize_scalar

_LEAST = 1e-4  # confidence beyond which being wrong costs no more


def expected_calibration_error(confidences: Sequence[float], right: Sequence[bool], *, num_bins: int = 10) -> float:
    """The mean distance between confidence and share of right words, over bins of confidence.

    Args:
        confidences: in [0, 1], of each word.
        right: whether it is.
        num_bins: of equal width.

    Raises:
        ValueError: no words, or not as many of the one as of the other.
    """
    values, is_right = _checked(confidences, right)
    bins = np.minimum((values * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=values - is_right, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(values))


def log_loss(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """The mean negative log-likelihood of words being right or wrong, in nats."""
    values, is_right = _checked(confidences, right)
    values = np.clip(values, _LEAST, 1.0 - _LEAST)
    return float(-np.where(is_right, np.log(values), np.log1p(-values)).mean())


def fit_temperature(
    confidences_at: Callable[[float], Sequence[float]],
    right: Sequence[bool],
    *,
    lowest: float = 0.2,
    highest: float = 10.0,
) -> float:
    """The temperature at which confidences have the least `log_loss`.

    Args:
        confidences_at: a temperature -> the words' confidences.
        right: whether each word is.
        lowest: temperature.
        highest: temperature.
    """
    found = minimize_scalar(
        lambda log_temperature: log_loss(confidences_at(float(np.exp(log_temperature))), right),
        bounds=(np.log(lowest), np.log(highest)),
        method="bounded",
        options={"xatol": 0.01},
    )
    return float(np.exp(found.x))


def _checked(confidences: Sequence[float], right: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    values, is_right = np.asarray(confidences, dtype=float), np.asarray(right, dtype=bool)
    if len(values) == 0 or values.shape != is_right.shape:
        raise ValueError(
            f"`confidences` and `right` must hold as many words, and some, got {len(values)} and {len(is_right)}."
        )
    return values, is_right
