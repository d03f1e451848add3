"""Tempo and pitch, one without the other, by overlap and add of similar waveforms."""

import numpy as np
import soxr

from speechkit.audio.perturbations.perturbation import Perturbation, check_probability, check_range

_WINDOW_SECONDS = 0.03  # two periods of a deep voice
_SEARCH_SECONDS = 0.0075  # either way: a period of most voices


def change_tempo(samples: np.ndarray, factor: float, sample_rate_hz: int) -> np.ndarray:
    """Makes speech faster or slower at the pitch it has (WSOLA; Verhelst and Roelands 1993, section 3).

    Hann windows that overlap by a half are laid down at even distances. Each is taken from where the time map says, or
    from up to 7.5 ms beside that, wherever it continues best what the one before it would have gone on with: the
    greatest cross-correlation, normalised by the energy of the candidate.

    Args:
        samples: (N,) float32.
        factor: over 1 is faster.
        sample_rate_hz: rate of the samples.

    Returns:
        float32 (N',), N' = round(N / factor). What is shorter than two windows is returned as it is.
    """
    half, search = round(_WINDOW_SECONDS * sample_rate_hz / 2), round(_SEARCH_SECONDS * sample_rate_hz)
    if len(samples) < 4 * half or factor == 1.0:
        return samples
    window = np.hanning(2 * half + 1)[:-1].astype(np.float32)
    num_out = round(len(samples) / factor)
    num_windows = num_out // half + 2
    padded = np.pad(samples, (half + search, 4 * half + search))
    result = np.zeros((num_windows + 1) * half, np.float32)
    squares = np.concatenate([[0.0], np.cumsum(np.square(padded, dtype=np.float64))])
    place = search  # in `padded`; the first window is centred on the first sample
    for number in range(num_windows):
        if number:
            wanted = min(search + round(number * half * factor), len(padded) - 2 * half - search)
            natural = padded[place + half : place + 3 * half]
            natural = np.pad(natural, (0, 2 * half - len(natural)))
            candidates = padded[wanted - search : wanted + search + 2 * half]
            energy = squares[wanted - search + 2 * half : wanted + search + 2 * half + 1]
            energy = energy - squares[wanted - search : wanted + search + 1]
            likeness = np.correlate(candidates, natural, "valid") / np.sqrt(energy + 1e-9)
            place = wanted - search + int(np.argmax(likeness))
        result[number * half : (number + 2) * half] += window * padded[place : place + 2 * half]
    return result[half : half + num_out]


class TempoPerturbation(Perturbation):
    """Speaks faster or slower at the same pitch, where `SpeedPerturbation` moves both (Ko et al. 2015, section 2).

    Args:
        low_factor: slowest tempo.
        high_factor: fastest; the factor is uniform in between.
        probability: of an utterance being perturbed.
        sample_rate_hz: rate of the waveform.

    Raises:
        ValueError: not 0.5 <= low_factor <= high_factor <= 2, or a probability outside [0, 1].
    """

    def __init__(
        self,
        low_factor: float = 0.85,
        high_factor: float = 1.15,
        probability: float = 0.5,
        sample_rate_hz: int = 16000,
    ) -> None:
        check_range("factor", low_factor, high_factor, least=0.5, most=2)
        check_probability(probability)
        self.low_factor, self.high_factor, self.probability = low_factor, high_factor, probability
        self.sample_rate_hz = sample_rate_hz

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability:
            return samples
        return change_tempo(samples, generator.uniform(self.low_factor, self.high_factor), self.sample_rate_hz)


class PitchPerturbation(Perturbation):
    """Speaks higher or lower in the same time: tempo one way, then resampling the other. Formants move along.

    Args:
        low_semitones: lowest shift.
        high_semitones: highest; the shift is uniform in between.
        probability: of an utterance being perturbed.
        sample_rate_hz: rate of the waveform.

    Raises:
        ValueError: not -12 <= low_semitones <= high_semitones <= 12, or a probability outside [0, 1].
    """

    def __init__(
        self,
        low_semitones: float = -3.0,
        high_semitones: float = 3.0,
        probability: float = 0.5,
        sample_rate_hz: int = 16000,
    ) -> None:
        check_range("semitones", low_semitones, high_semitones, least=-12, most=12)
        check_probability(probability)
        self.low_semitones, self.high_semitones, self.probability = low_semitones, high_semitones, probability
        self.sample_rate_hz = sample_rate_hz

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability or len(samples) == 0:
            return samples
        factor = 2.0 ** (generator.uniform(self.low_semitones, self.high_semitones) / 12.0)
        slower = change_tempo(samples, 1.0 / factor, self.sample_rate_hz)
        if slower is samples:  # too short to be slowed down
            return samples
        higher = soxr.resample(slower, factor, 1.0, quality="MQ")
        return np.pad(higher, (0, max(0, len(samples) - len(higher))))[: len(samples)]
