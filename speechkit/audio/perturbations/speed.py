"""Speed: resampling by a random factor."""

import numpy as np
import soxr

from speechkit.audio.perturbations.perturbation import Perturbation, check_probability


class SpeedPerturbation(Perturbation):
    """Resamples by a random factor, which moves tempo and pitch together (Ko et al. 2015, "Audio augmentation").

    Args:
        low: slowest speed.
        high: fastest speed; the factor is drawn uniformly from a grid of hundredths in between.
        probability: of an utterance being perturbed.
    """

    def __init__(self, low: float = 0.9, high: float = 1.1, probability: float = 1.0) -> None:
        if not 0.5 <= low <= high <= 2.0:
            raise ValueError(f"`low` and `high` must satisfy 0.5 <= low <= high <= 2, got {low} and {high}.")
        check_probability(probability)
        self.low, self.high, self.probability = low, high, probability

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability:
            return samples
        hundredths = int(generator.integers(round(100 * self.low), round(100 * self.high) + 1))
        if hundredths == 100 or len(samples) == 0:
            return samples
        return soxr.resample(samples, hundredths, 100, quality="MQ")
