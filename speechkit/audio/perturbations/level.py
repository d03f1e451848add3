"""Level: how loud an utterance is, throughout or at different moments, and what is clipped of it."""

import numpy as np

from speechkit.audio.perturbations.perturbation import Perturbation, check_probability, check_range


class GainPerturbation(Perturbation):
    """Scales by a gain drawn uniformly in decibels; the result is not clipped.

    Args:
        low_db: least gain.
        high_db: greatest gain.
        probability: of an utterance being perturbed.
    """

    def __init__(self, low_db: float = -12.0, high_db: float = 6.0, probability: float = 1.0) -> None:
        if low_db > high_db:
            raise ValueError(f"`low_db` must be at most `high_db`, got {low_db} and {high_db}.")
        check_probability(probability)
        self.low_db, self.high_db, self.probability = low_db, high_db, probability

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if self.probability < 1.0 and generator.random() >= self.probability:  # no draw where all are perturbed
            return samples
        gain = 10.0 ** (generator.uniform(self.low_db, self.high_db) / 20.0)
        return (samples * np.float32(gain)).astype(np.float32)


class LevelDriftPerturbation(Perturbation):
    """A gain that wanders within the utterance, as of a speaker who turns away from the microphone or comes nearer.

    The gain is linear in decibels between random values at random moments.

    Args:
        max_db: gains are uniform in [-max_db, max_db].
        num_moments: how many values, the first and the last moment included.
        probability: of an utterance being perturbed.

    Raises:
        ValueError: a negative gain, fewer than two moments, or a probability outside [0, 1].
    """

    def __init__(self, max_db: float = 6.0, num_moments: int = 4, probability: float = 0.5) -> None:
        if max_db < 0 or num_moments < 2:
            raise ValueError(f"`max_db` must be at least 0 and `num_moments` 2, got {max_db} and {num_moments}.")
        check_probability(probability)
        self.max_db, self.num_moments, self.probability = max_db, num_moments, probability

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability or len(samples) == 0:
            return samples
        moments = np.sort(generator.uniform(0.0, len(samples), self.num_moments - 2))
        gains_db = generator.uniform(-self.max_db, self.max_db, self.num_moments)
        drift_db = np.interp(np.arange(len(samples)), [0.0, *moments, len(samples)], gains_db)
        return (samples * 10.0 ** (drift_db / 20.0)).astype(np.float32)


class ClippingPerturbation(Perturbation):
    """Cuts off the peaks, as a microphone does whose gain is too high; the level below them stays.

    Args:
        low_db: how far below the highest peak the cut is, at least.
        high_db: at most.
        probability: of an utterance being perturbed.

    Raises:
        ValueError: not 0 <= low_db <= high_db <= 60, or a probability outside [0, 1].
    """

    def __init__(self, low_db: float = 3.0, high_db: float = 15.0, probability: float = 0.1) -> None:
        check_range("db", low_db, high_db, least=0, most=60)
        check_probability(probability)
        self.low_db, self.high_db, self.probability = low_db, high_db, probability

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability or len(samples) == 0:
            return samples
        limit = np.abs(samples).max() * np.float32(10.0 ** (-generator.uniform(self.low_db, self.high_db) / 20.0))
        return np.clip(samples, -limit, limit)
