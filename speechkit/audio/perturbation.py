"""Waveform perturbations: `(samples (N,), generator) -> samples`, drawn anew for each utterance and epoch.

They run in the data workers on numpy arrays. Each draws only from the generator it is handed, so an epoch is the
same whatever the number of workers, and after a resume.
"""

from abc import ABC, abstractmethod

import numpy as np
import soxr


class Perturbation(ABC):
    """Changes a waveform at random."""

    @abstractmethod
    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Samples (N,) in [-1, 1] -> samples (N',), all randomness drawn from the generator."""


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
        self.low, self.high, self.probability = low, high, probability

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability:
            return samples
        hundredths = int(generator.integers(round(100 * self.low), round(100 * self.high) + 1))
        if hundredths == 100 or len(samples) == 0:
            return samples
        return soxr.resample(samples, hundredths, 100, quality="MQ")


class GainPerturbation(Perturbation):
    """Scales by a gain drawn uniformly in decibels; the result is not clipped."""

    def __init__(self, low_db: float = -12.0, high_db: float = 6.0) -> None:
        if low_db > high_db:
            raise ValueError(f"`low_db` must be at most `high_db`, got {low_db} and {high_db}.")
        self.low_db, self.high_db = low_db, high_db

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        gain = 10.0 ** (generator.uniform(self.low_db, self.high_db) / 20.0)
        return (samples * np.float32(gain)).astype(np.float32)


class NoisePerturbation(Perturbation):
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


class PausePerturbation(Perturbation):
    """Lengthens pauses: inserts quiet between words, so that the silence around a word tells nothing of it.

    A model trained on few utterances otherwise learns what tends to come first, or behind a long pause. What is
    inserted is the utterance's own quietest stretch, mirrored to any length.

    Args:
        max_pauses: how many places at most.
        max_seconds: longest insertion.
        probability: of an utterance being perturbed.
        sample_rate_hz: rate of the waveform, which gives `max_seconds` its meaning.
    """

    def __init__(
        self, max_pauses: int = 3, max_seconds: float = 0.8, probability: float = 0.5, sample_rate_hz: int = 16000
    ) -> None:
        if max_pauses < 1 or max_seconds <= 0:
            raise ValueError(f"`max_pauses` and `max_seconds` must be positive, got {max_pauses} and {max_seconds}.")
        self.max_pauses, self.max_seconds, self.probability = max_pauses, max_seconds, probability
        self.sample_rate_hz = sample_rate_hz

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        frame = self.sample_rate_hz // 20  # 50 ms
        if generator.random() >= self.probability or len(samples) < 4 * frame:
            return samples
        energy = np.square(samples[: len(samples) // frame * frame]).reshape(-1, frame).mean(axis=1)
        quietest = int(np.argmin(energy))
        quiet = samples[quietest * frame : (quietest + 1) * frame]
        loop = np.concatenate([quiet, quiet[::-1]])
        candidates = self._pauses(energy)
        if len(candidates) == 0:
            return samples
        places = np.unique(generator.choice(candidates, size=generator.integers(1, self.max_pauses + 1)))
        parts, done = [], 0
        for place in places:
            cut = int(place) * frame + frame // 2
            length = int(generator.uniform(0.0, self.max_seconds) * self.sample_rate_hz)
            parts += [samples[done:cut], np.resize(loop, length)]
            done = cut
        return np.concatenate([*parts, samples[done:]]).astype(np.float32)

    @staticmethod
    def _pauses(energy: np.ndarray) -> np.ndarray:
        """Places that are quieter than the 150 ms on either side, and 10 dB below the loud parts."""
        around = np.lib.stride_tricks.sliding_window_view(np.pad(energy, 3, constant_values=np.inf), 7)
        return np.flatnonzero((energy <= around.min(axis=1)) & (energy < 0.1 * np.quantile(energy, 0.9)))
