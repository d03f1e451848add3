"""Pauses: quiet is inserted between words."""

import numpy as np

from speechkit.audio.perturbations.perturbation import Perturbation, check_probability


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
        check_probability(probability)
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
