"""Noise that is made: of any colour, at any ratio."""

import numpy as np

from speechkit.audio.perturbations.perturbation import Perturbation, check_probability


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
        check_probability(probability)
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
