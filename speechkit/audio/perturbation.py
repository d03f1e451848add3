"""Waveform perturbations: callables `(samples (N,), generator) -> samples`, drawn anew for each utterance and epoch.

They run in the data workers on numpy arrays. Each draws only from the generator it is handed, so an epoch is the
same whatever the number of workers, and after a resume.
"""

import numpy as np
import soxr


class SpeedPerturbation:
    """Resamples by a random factor, which moves tempo and pitch together (Ko et al. 2015, "Audio augmentation").

    Args:
        low: slowest speed.
        high: fastest speed; the factor is drawn uniformly from a grid of hundredths in between.
        probability: of an utterance being perturbed.
    """

    def __init__(self, low: float = 0.9, high: float = 1.1, probability: float = 1.0) -> None:
        if not 0.5 <= low <= high <= 2.0:
            raise ValueError(f"`low` and `high` must satisfy 0.5 <= low <= high <= 2, got {low} and {high}.")
        self.low, self.high, self.probability = low, high, probability

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability:
            return samples
        hundredths = int(generator.integers(round(100 * self.low), round(100 * self.high) + 1))
        if hundredths == 100 or len(samples) == 0:
            return samples
        return soxr.resample(samples, hundredths, 100, quality="MQ")


class GainPerturbation:
    """Scales by a gain drawn uniformly in decibels; the result is not clipped."""

    def __init__(self, low_db: float = -12.0, high_db: float = 6.0) -> None:
        if low_db > high_db:
            raise ValueError(f"`low_db` must be at most `high_db`, got {low_db} and {high_db}.")
        self.low_db, self.high_db = low_db, high_db

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        gain = 10.0 ** (generator.uniform(self.low_db, self.high_db) / 20.0)
        return (samples * np.float32(gain)).astype(np.float32)


class NoisePerturbation:
    """Adds noise of a random colour (spectrum 1/f^a, a in [0, 1.5]) at a random signal-to-noise ratio.

    Args:
        low_snr_db: worst ratio of utterance power to noise power, in decibels.
        high_snr_db: best ratio.
        probability: of an utterance being perturbed.
    """

    def __init__(self, low_snr_db: float = 10.0, high_snr_db: float = 40.0, probability: float = 0.5) -> None:
        if low_snr_db > high_snr_db:
            raise ValueError(f"`low_snr_db` must be at most `high_snr_db`, got {low_snr_db} and {high_snr_db}.")
        self.low_snr_db, self.high_snr_db, self.probability = low_snr_db, high_snr_db, probability

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability or len(samples) < 2:
            return samples
        spectrum = np.fft.rfft(generator.standard_normal(len(samples)))
        exponent = generator.uniform(0.0, 1.5) / 2.0
        spectrum *= np.arange(1, len(spectrum) + 1, dtype=np.float64) ** -exponent
        noise = np.fft.irfft(spectrum, len(samples))
        snr_db = generator.uniform(self.low_snr_db, self.high_snr_db)
        signal_power = float(np.mean(samples.astype(np.float64) ** 2))
        scale = np.sqrt(signal_power / (np.mean(noise**2) * 10.0 ** (snr_db / 10.0) + 1e-20))
        return (samples + scale * noise).astype(np.float32)
