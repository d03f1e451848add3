"""Presets against the toolkits whose definitions they follow, on real speech."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import torchaudio

from speechkit.audio import load_audio
from speechkit.features import MFB, LibrosaMFB, LibrosaMFCC, WhisperMFB


@pytest.fixture
def samples(recordings: Path) -> np.ndarray:
    files = sorted((recordings / "arctic" / "audio" / "bdl").glob("*.opus"))[:4]
    return np.concatenate([load_audio(file, 16000) for file in files])


def run(front_end: torch.nn.Module, samples: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return front_end(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0][0].numpy()


def relative(energies: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.abs(energies - expected) / np.maximum(expected, expected.max(axis=-1, keepdims=True) * 1e-6)


@pytest.mark.parametrize(("rate", "num_mels", "n_fft", "hop"), [(22050, 128, 2048, 512), (16000, 40, 400, 160)])
def test_librosas_mel_spectrogram_in_decibels(
    samples: np.ndarray, rate: int, num_mels: int, n_fft: int, hop: int
) -> None:
    energies = librosa.feature.melspectrogram(y=samples, sr=rate, n_fft=n_fft, hop_length=hop, n_mels=num_mels)
    front_end = LibrosaMFB(sample_rate_hz=rate, num_mels=num_mels, frame_seconds=n_fft / rate, hop_seconds=hop / rate)
    ours = run(front_end, samples)
    np.testing.assert_allclose(ours, librosa.power_to_db(energies).T, atol=1e-3, rtol=0)
    assert np.quantile(np.abs(ours - librosa.power_to_db(energies).T), 0.999) < 1e-4
    assert relative(10 ** (ours / 10), 10 ** (librosa.power_to_db(energies).T / 10)).max() < 1e-4


def test_librosas_mfcc(samples: np.ndarray) -> None:
    expected = librosa.feature.mfcc(y=samples, sr=22050).T
    error = np.abs(run(LibrosaMFCC(), samples) - expected)
    assert error.max() < 1e-2
    assert np.quantile(error, 0.999) < 1e-3
    assert (error / np.abs(expected).max()).max() < 1e-4


def test_torchaudios_mel_spectrogram(samples: np.ndarray) -> None:
    peer = torchaudio.transforms.MelSpectrogram(sample_rate=16000, n_fft=400, hop_length=160, n_mels=40)
    expected = peer(torch.from_numpy(samples)).T.numpy()
    front_end = MFB(
        num_mels=40,
        low_hz=0.0,
        preemphasis=0.0,
        remove_dc=False,
        window="hann",
        round_to_power_of_two=False,
        edges="reflect",
        straight_in="hz",
        sample_scale=1.0,
        log="none",
    )
    assert relative(run(front_end, samples), expected).max() < 1e-4


def test_whispers_log_mel_by_its_paper(samples: np.ndarray) -> None:
    """torch.stft, librosa's filters, log10, the range of 8, (x + 4) / 4: what its code does, written out here."""
    wave = torch.from_numpy(samples)
    spectrum = torch.stft(wave, 400, 160, window=torch.hann_window(400), return_complex=True)[..., :-1]
    filters = torch.from_numpy(librosa.filters.mel(sr=16000, n_fft=400, n_mels=80))
    log = (filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
    expected = (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0
    np.testing.assert_allclose(run(WhisperMFB(), samples), expected.T.numpy(), atol=1e-4, rtol=0)


def test_a_preset_refuses_a_rate_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="`sample_rate_hz` must be 16000"):
        WhisperMFB(sample_rate_hz=8000)


def test_a_limited_range_is_each_utterances_own() -> None:
    loud, quiet = torch.randn(1, 8000), 1e-3 * torch.randn(1, 4000)
    both = torch.cat([loud, torch.nn.functional.pad(quiet, (0, 4000))])
    together, frames = WhisperMFB()(both, torch.tensor([8000, 4000]))
    alone, _ = WhisperMFB()(quiet, torch.tensor([4000]))
    torch.testing.assert_close(together[1, : frames[1]], alone[0], atol=1e-5, rtol=0)
    assert not together[1, frames[1] :].any()
