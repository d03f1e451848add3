"""Front ends against kaldi-native-fbank on real speech."""

from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch
import torchaudio

from speechkit.audio import load_audio
from speechkit.features import MFB, MFCC
from speechkit.features.framing import window_function
from speechkit.features.mel import mel_filters
from speechkit.features.mfb import ENERGY_FLOOR


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


MFB_OPTIONS = [
    ({}, {}),
    ({"num_mels": 40, "low_hz": 64.0, "high_hz": -400.0}, {"num_bins": 40, "low_freq": 64.0, "high_freq": -400.0}),
    ({"sample_rate_hz": 8000, "num_mels": 23}, {"num_bins": 23}),
    ({"window": "hamming", "preemphasis": 0.0}, {"window_type": "hamming", "preemph_coeff": 0.0}),
    ({"window": "hanning", "remove_dc": False}, {"window_type": "hanning", "remove_dc_offset": False}),
    ({"frame_seconds": 0.032, "hop_seconds": 0.016}, {"frame_length_ms": 32.0, "frame_shift_ms": 16.0}),
    ({"window": "rectangular"}, {"window_type": "rectangular"}),
    ({"window": "sine"}, {"window_type": "sine"}),
    (
        {"window": "blackman", "blackman_coefficient": 0.4},
        {"window_type": "blackman", "blackman_coeff": 0.4},
    ),
    ({"edges": "mirror"}, {"snip_edges": False}),
    ({"use_power": False}, {"use_power": False}),
    ({"use_energy": True}, {"use_energy": True}),
    (
        {"use_energy": True, "raw_energy": False, "htk_compat": True},
        {"use_energy": True, "raw_energy": False, "htk_compat": True},
    ),
    ({"use_energy": True, "energy_floor": 1e9}, {"use_energy": True, "energy_floor": 1e9}),
]


@pytest.mark.parametrize(("ours", "theirs"), MFB_OPTIONS)
def test_mfb_is_kaldis(recordings: Path, ours: dict, theirs: dict) -> None:
    rate = ours.get("sample_rate_hz", 16000)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = rate
    options.mel_opts.num_bins = 80
    for name, value in theirs.items():
        holders = (options.mel_opts, options.frame_opts, options)
        setattr(next(holder for holder in holders if hasattr(holder, name)), name, value)
    samples = speech(recordings, rate)
    expected = frames_of(kaldi_native_fbank.OnlineFbank(options), samples, rate)
    error = np.abs(run(MFB(**ours), samples) - expected)
    assert np.quantile(error, 0.999) < 1e-4  # the peer itself is this far from float64
    assert error.max() < 2e-2  # single bins between loud harmonics, where float32 transforms differ


def test_where_single_bins_differ_the_peer_is_as_far_from_float64(recordings: Path) -> None:
    """The largest differences are float32 rounding of bins 20 nats below their frame's maximum, on both sides."""
    samples = speech(recordings, count=60)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0.0, 80
    peer = frames_of(kaldi_native_fbank.OnlineFbank(options), samples, 16000)
    front_end = MFB()
    ours = run(front_end, samples)
    frames = torch.from_numpy(samples).double().unfold(0, 400, 160)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], dim=-1)
    spectrum = torch.fft.rfft(frames * 32768 * window_function("povey", 400), n=512)
    energies = spectrum.abs().square() @ mel_filters(80, 512, 16000, 20.0, 8000.0)
    exact = energies.clamp(min=ENERGY_FLOOR).log().numpy()
    assert np.quantile(np.abs(ours - exact), 0.999) < 1e-4
    assert np.abs(ours - exact).max() < 1.5 * max(np.abs(peer - exact).max(), 1e-3)
    far = np.abs(ours - peer) > 1e-3
    assert far.mean() < 2e-5
    assert (exact.max(axis=1, keepdims=True) - exact)[far].min(initial=np.inf) > 14.0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"num_coefficients": 20, "num_mels": 40, "lifter": 0.0}, {"num_ceps": 20, "cepstral_lifter": 0.0}),
        ({"htk_compat": True}, {"htk_compat": True}),
        ({"raw_energy": False, "window": "hamming"}, {"raw_energy": False, "window_type": "hamming"}),
    ],
)
@pytest.mark.parametrize("use_energy", [False, True])
def test_mfcc_is_kaldis(recordings: Path, ours: dict, theirs: dict, use_energy: bool) -> None:
    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.dither = 0.0
    options.use_energy = use_energy
    options.mel_opts.num_bins = ours.get("num_mels", 23)
    for name, value in theirs.items():
        setattr(options if hasattr(options, name) else options.frame_opts, name, value)
    samples = speech(recordings)
    expected = frames_of(kaldi_native_fbank.OnlineMfcc(options), samples, 16000)
    error = np.abs(run(MFCC(use_energy=use_energy, **ours), samples) - expected)
    assert np.quantile(error, 0.999) < 5e-4
    assert error.max() < 2e-2


@pytest.mark.parametrize("warp", [0.88, 1.12])
def test_vocal_tract_warp_is_kaldis(recordings: Path, warp: float) -> None:
    samples = speech(recordings, count=1)
    expected = torchaudio.compliance.kaldi.fbank(
        32768 * torch.from_numpy(samples)[None], num_mel_bins=40, vtln_warp=warp, dither=0.0
    )
    error = np.abs(run(MFB(num_mels=40, vtln_warp=warp), samples) - expected.numpy())
    assert np.quantile(error, 0.999) < 1e-3
    assert error.max() < 2e-2


def test_dither_is_noise_of_its_deviation() -> None:
    torch.manual_seed(0)
    front_end = MFB(
        dither=2.0, use_energy=True, remove_dc=False, raw_energy=False, preemphasis=0.0, window="rectangular"
    )
    features, _ = front_end(torch.zeros(1, 16000), torch.tensor([16000]))
    assert features[0, :, 0].exp().mean() == pytest.approx(400 * 4.0, rel=0.05)
