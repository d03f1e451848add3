"""Rooms: an impulse response is convolved with the utterance, one that is made here or (see `data`) recorded."""

import numpy as np

from speechkit.audio.perturbations.perturbation import Perturbation, check_probability, check_range


def reverberate(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolves; the direct sound (the response's peak) stays in its place, and the utterance's length and power too.

    Args:
        samples: (N,).
        response: (M,) impulse response at the same rate, not all zero.

    Returns:
        float32 (N,).
    """
    from scipy.signal import fftconvolve  # a runtime that only transcribes goes without scipy

    direct = int(np.abs(response).argmax())
    wet = fftconvolve(samples, response)[direct : direct + len(samples)]
    power = np.mean(np.square(samples, dtype=np.float64))
    return (wet * np.sqrt(power / (np.mean(np.square(wet, dtype=np.float64)) + 1e-20))).astype(np.float32)


def simulate_room(
    reverberation_seconds: float, direct_to_reverberant_db: float, sample_rate_hz: int, generator: np.random.Generator
) -> np.ndarray:
    """Direct sound, then white noise that decays exponentially (Polack 1988; Lehmann and Johansson 2010, section II).

    Args:
        reverberation_seconds: T60, after which the noise has lost 60 dB.
        direct_to_reverberant_db: energy of the direct sound over that of all the noise.
        sample_rate_hz: of the response.
        generator: of the noise.

    Returns:
        (1 + T60 * sample_rate_hz,), the first sample 1.
    """
    seconds = np.arange(1, 1 + round(reverberation_seconds * sample_rate_hz)) / sample_rate_hz
    tail = generator.standard_normal(len(seconds)) * 10.0 ** (-3.0 * seconds / reverberation_seconds)
    energy = np.sum(tail**2) + 1e-20
    return np.concatenate([[1.0], tail * np.sqrt(10.0 ** (-direct_to_reverberant_db / 10.0) / energy)])


class RoomPerturbation(Perturbation):
    """Puts the utterance into a simulated room (on the use of such in training: Ko et al. 2017, ICASSP).

    No walls, no early reflections: enough to smear the features as a room does. Recorded responses are better, see
    `speechkit.data.RecordedRoomPerturbation`.

    Args:
        low_seconds: shortest reverberation time (T60).
        high_seconds: longest.
        low_direct_db: least energy of the direct sound over the reverberation, in decibels.
        high_direct_db: greatest.
        probability: of an utterance being perturbed.
        sample_rate_hz: rate of the waveform.

    Raises:
        ValueError: ranges that are upside down or outside 0.01 to 10 s and -30 to 60 dB, or a probability outside
            [0, 1].
    """

    def __init__(
        self,
        low_seconds: float = 0.1,
        high_seconds: float = 0.8,
        low_direct_db: float = -3.0,
        high_direct_db: float = 15.0,
        probability: float = 0.3,
        sample_rate_hz: int = 16000,
    ) -> None:
        check_range("seconds", low_seconds, high_seconds, least=0.01, most=10)
        check_range("direct_db", low_direct_db, high_direct_db, least=-30, most=60)
        check_probability(probability)
        self.low_seconds, self.high_seconds = low_seconds, high_seconds
        self.low_direct_db, self.high_direct_db = low_direct_db, high_direct_db
        self.probability, self.sample_rate_hz = probability, sample_rate_hz

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability or len(samples) == 0:
            return samples
        seconds = generator.uniform(self.low_seconds, self.high_seconds)
        direct_db = generator.uniform(self.low_direct_db, self.high_direct_db)
        return reverberate(samples, simulate_room(seconds, direct_db, self.sample_rate_hz, generator))
