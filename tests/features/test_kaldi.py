"""Front ends against kaldi-native-fbank on real speech."""

from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from speechkit.audio import load_audio
from speechkit.features import MFB, MFCC


def speech(recordings: Path, rate: int = 16000, count: int = 6) -> np.ndarray:
    files = sorted((recordings / "arctic" / "audio" / "slt").glob("*.opus"))[:count]
    return np.concatenate([load_audio(file, rate) for file in files])


def frames_of(peer, samples: np.ndarray, rate: int) -> np.ndarray:
    peer.accept_waveform(rate, (samples * 32768).tolist())
    peer.input_finished()
    return np.stack([peer.get_frame(place) for place in range(peer.num_frames_ready)])


def run(front_end: torch.nn.Module, samples: np.ndarray) -> np.ndarray:
    waveform = torch.from_numpy(samples)[None]
    with torch.inference_mode():
        return front_end(waveform, torch.tensor([len(samples)]))[0][0].numpy()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"num_mels": 40, "low_hz": 64.0, "high_hz": -400.0}, {"num_bins": 40, "low_freq": 64.0, "high_freq": -400.0}),
        ({"sample_rate_hz": 8000, "num_mels": 23}, {"num_bins": 23}),
        ({"window": "hamming", "preemphasis": 0.0}, {"window_type": "hamming", "preemph_coeff": 0.0}),
        ({"window": "hanning", "remove_dc": False}, {"window_type": "hanning", "remove_dc_offset": False}),
        ({"frame_seconds": 0.032, "hop_seconds": 0.016}, {"frame_length_ms": 32.0, "frame_shift_ms": 16.0}),
        ({"window": "rectangular"}, {"window_type": "rectangular"}),
        ({"window": "blackman"}, {"window_type": "blackman"}),
    ],
)
def test_mfb_is_kaldis(recordings: Path, ours: dict, theirs: dict) -> None:
    rate = ours.get("sample_rate_hz", 16000)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = rate
    options.mel_opts.num_bins = 80
    for name, value in theirs.items():
        setattr(options.mel_opts if hasattr(options.mel_opts, name) else options.frame_opts, name, value)
    samples = speech(recordings, rate)
    expected = frames_of(kaldi_native_fbank.OnlineFbank(options), samples, rate)
    error = np.abs(run(MFB(**ours), samples) - expected)
    assert np.quantile(error, 0.999) < 1e-4  # the peer itself is this far from float64
    assert error.max() < 2e-2  # single bins between loud harmonics, where float32 transforms differ


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [({}, {}), ({"num_coefficients": 20, "num_mels": 40, "lifter": 0.0}, {"num_ceps": 20, "cepstral_lifter": 0.0})],
)
@pytest.mark.parametrize("use_energy", [False, True])
def test_mfcc_is_kaldis(recordings: Path, ours: dict, theirs: dict, use_energy: bool) -> None:
    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.dither = 0.0
    options.use_energy = use_energy
    options.mel_opts.num_bins = ours.get("num_mels", 23)
    for name, value in theirs.items():
        setattr(options, name, value)
    samples = speech(recordings)
    expected = frames_of(kaldi_native_fbank.OnlineMfcc(options), samples, 16000)
    error = np.abs(run(MFCC(use_energy=use_energy, **ours), samples) - expected)
    assert np.quantile(error, 0.999) < 5e-4
    assert error.max() < 2e-2
