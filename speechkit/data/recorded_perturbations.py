"""Perturbations of waveforms with recordings: noise and rooms that are read from a manifest or a folder."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechkit.audio import Perturbation, find_audio_files, load_audio, read_audio_info
from speechkit.audio.perturbations.perturbation import check_probability, check_range
from speechkit.audio.perturbations.room import reverberate
from speechkit.data.manifest import Utterance, expand_path, read_utterances


class Recording(NamedTuple):
    """A span of a file."""

    path: Path
    offset_seconds: float
    duration_seconds: float


def find_recordings(path: str | os.PathLike[str]) -> list[Recording]:
    """The recordings of a manifest, or all audio files below a folder.

    Raises:
        ValueError: there is neither, or no recording in it; one that is missing or not audio.
    """
    target = expand_path(path)
    found = [Utterance(file) for file in find_audio_files(target)] if target.is_dir() else read_utterances(target)
    if not found:
        raise ValueError(f"{target}: the manifest holds no recordings")
    recordings = []
    for utterance in found:
        left = read_audio_info(utterance.audio_path).duration_seconds - utterance.offset_seconds
        seconds = left if utterance.duration_seconds is None else min(left, utterance.duration_seconds)
        recordings.append(Recording(utterance.audio_path, utterance.offset_seconds, seconds))
    return recordings


class RecordedNoisePerturbation(Perturbation):
    """Adds a stretch of a recording, such as of MUSAN (Snyder et al. 2015, arXiv 1510.08484), at a random ratio.

    What is shorter than the utterance is repeated.

    Args:
        path: manifest or folder of recordings.
        low_snr_db: worst ratio of utterance power to noise power, in decibels.
        high_snr_db: best ratio.
        probability: of an utterance being perturbed.
        sample_rate_hz: rate of the waveform.

    Raises:
        ValueError: no recordings, ratios upside down or outside [-60, 100], or a probability outside [0, 1].
    """

    def __init__(
        self,
        path: str,
        low_snr_db: float = 5.0,
        high_snr_db: float = 25.0,
        probability: float = 0.5,
        sample_rate_hz: int = 16000,
    ) -> None:
        check_range("snr_db", low_snr_db, high_snr_db, least=-60, most=100)
        check_probability(probability)
        self.path, self.low_snr_db, self.high_snr_db = path, low_snr_db, high_snr_db
        self.probability, self.sample_rate_hz = probability, sample_rate_hz
        self._recordings = find_recordings(path)

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability or len(samples) == 0:
            return samples
        recording = self._recordings[int(generator.integers(len(self._recordings)))]
        wanted = len(samples) / self.sample_rate_hz
        spare = max(0.0, recording.duration_seconds - wanted)
        noise = load_audio(
            recording.path,
            self.sample_rate_hz,
            offset_seconds=recording.offset_seconds + generator.uniform(0.0, spare),
            duration_seconds=min(wanted, recording.duration_seconds),
        )
        noise = np.resize(noise, len(samples))
        snr_db = generator.uniform(self.low_snr_db, self.high_snr_db)
        power, noise_power = (float(np.mean(np.square(signal, dtype=np.float64))) for signal in (samples, noise))
        scale = np.sqrt(power / (noise_power * 10.0 ** (snr_db / 10.0) + 1e-20))
        return (samples + scale * noise).astype(np.float32)


class RecordedRoomPerturbation(Perturbation):
    """Convolves with a recorded impulse response (Ko et al. 2017, ICASSP); the direct sound stays in its place.

    The responses are kept in memory, as they are asked for.

    Args:
        path: manifest or folder of impulse responses.
        probability: of an utterance being perturbed.
        sample_rate_hz: rate of the waveform.

    Raises:
        ValueError: no responses, or a probability outside [0, 1].
    """

    def __init__(self, path: str, probability: float = 0.3, sample_rate_hz: int = 16000) -> None:
        check_probability(probability)
        self.path, self.probability, self.sample_rate_hz = path, probability, sample_rate_hz
        self._recordings = find_recordings(path)
        self._responses: dict[int, np.ndarray] = {}

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability or len(samples) == 0:
            return samples
        return reverberate(samples, self._response(int(generator.integers(len(self._recordings)))))

    def _response(self, index: int) -> np.ndarray:
        if index not in self._responses:
            recording = self._recordings[index]
            self._responses[index] = load_audio(
                recording.path,
                self.sample_rate_hz,
                offset_seconds=recording.offset_seconds,
                duration_seconds=recording.duration_seconds,
            )
        return self._responses[index]
