"""Noise and rooms from files: the ratio, the place, and what is said of a folder without recordings."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechkit.audio import PausePerturbation, Perturbation
from speechkit.data import RecordedNoisePerturbation, RecordedRoomPerturbation, SpeechDataset

RATE = 8000
SPEECH = (0.2 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "hum.wav", 0.1 * np.sin(np.arange(3 * RATE) * 0.2), RATE, subtype="FLOAT")
    return tmp_path


def perturb(perturbation: Perturbation, samples: np.ndarray = SPEECH, seed: int = 0) -> np.ndarray:
    return perturbation(samples, np.random.default_rng(seed))


@pytest.mark.parametrize("num_samples", [200, RATE, 5 * RATE])  # the last is longer than the recording
def test_noise_is_of_the_recording_and_has_the_ratio(folder: Path, num_samples: int) -> None:
    speech = np.resize(SPEECH, num_samples)
    noise = perturb(RecordedNoisePerturbation(str(folder), 10, 10, 1.0, RATE), speech) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) == pytest.approx(10.0, abs=0.1)
    hum_hz = np.abs(np.fft.rfft(noise)).argmax() * RATE / len(noise)
    assert hum_hz == pytest.approx(0.2 / (2 * np.pi) * RATE, abs=RATE / num_samples)


def test_a_stretch_is_drawn_anew(folder: Path) -> None:
    perturbation = RecordedNoisePerturbation(str(folder), 10, 10, 1.0, RATE)
    assert len({perturb(perturbation, seed=seed).tobytes() for seed in range(4)}) == 4
    np.testing.assert_array_equal(perturb(perturbation), perturb(perturbation))


def test_a_manifest_gives_spans_of_files(folder: Path) -> None:
    hum, _ = soundfile.read(folder / "hum.wav", dtype="float32")
    manifest = folder / "noise.jsonl"
    line = {"audio_filepath": "hum.wav", "offset": 1.0, "duration": 0.5}
    manifest.write_text(json.dumps(line) + "\n", encoding="utf-8")
    noise = perturb(RecordedNoisePerturbation(str(manifest), 0, 0, 1.0, RATE)) - SPEECH
    expected = np.tile(hum[RATE : RATE + RATE // 2], 2)
    np.testing.assert_allclose(noise / np.std(noise), expected / np.std(expected), atol=1e-3)


def test_a_recorded_room_is_convolved_with(tmp_path: Path) -> None:
    response = np.zeros(500, np.float32)
    response[[100, 300]] = 0.5, 0.25
    soundfile.write(tmp_path / "room.wav", response, RATE, subtype="FLOAT")
    wet = perturb(RecordedRoomPerturbation(str(tmp_path), 1.0, RATE))
    expected = SPEECH + 0.5 * np.concatenate([np.zeros(200, np.float32), SPEECH[:-200]])
    np.testing.assert_allclose(wet / np.std(wet), expected / np.std(expected), atol=1e-3)


@pytest.mark.parametrize("make", [RecordedNoisePerturbation, RecordedRoomPerturbation])
def test_no_recordings_are_said_at_the_start(tmp_path: Path, make: Callable[..., Perturbation]) -> None:
    with pytest.raises(ValueError, match="the folder holds no audio files"):
        make(str(tmp_path))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=r"empty.jsonl.* no "):
        make(str(tmp_path / "empty.jsonl"))
    with pytest.raises(ValueError, match="no such"):
        make(str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="`probability`"):
        make(str(tmp_path), probability=-0.5)


def test_the_rate_of_a_perturbation_is_that_of_the_data() -> None:
    with pytest.raises(ValueError, match="PausePerturbation must be that of the data, 8000, got 16000"):
        SpeechDataset([], sample_rate_hz=8000, perturbations=[PausePerturbation()])
