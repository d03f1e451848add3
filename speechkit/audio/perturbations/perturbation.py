"""What waveform perturbations have in common: `(samples (N,), generator) -> samples`, a new draw for each.

They run in the data workers on numpy arrays. Each draws only from the generator it is handed, so an epoch is the
same whatever the number of workers, and after a resume.
"""

from abc import ABC, abstractmethod

import numpy as np


class Perturbation(ABC):
    """Changes a waveform at random."""

    @abstractmethod
    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Samples (N,) in [-1, 1] -> samples (N',), all randomness drawn from the generator."""


def check_probability(probability: float) -> None:
    """Raises ValueError where it lies outside [0, 1]."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"`probability` must lie in [0, 1], got {probability}.")


def check_range(name: str, low: float, high: float, *, least: float, most: float) -> None:
    """Raises ValueError where least <= low_<name> <= high_<name> <= most does not hold."""
    if not least <= low <= high <= most:
        raise ValueError(
            f"`low_{name}` and `high_{name}` must satisfy {least:g} <= low_{name} <= high_{name} <= {most:g}, "
            f"got {low} and {high}."
        )
