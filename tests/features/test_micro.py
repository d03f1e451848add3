"""MicroMFB against pymicro-features: every value equal, on real speech and on signals that overflow."""

import inspect
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pymicro_features import MicroFrontend

from speechkit.audio import load_audio
from speechkit.features.micro import OUTPUT_SCALE, MicroMFB, bit_length, log1p, rounded_root

RATE = 16000
TIME = np.arange(3 * RATE)


def peer(samples: np.ndarray) -> np.ndarray:
    """pymicro-features (T, 40) in float32: it takes 10 ms at a time and says nothing until 30 ms are there."""
    front_end, audio = MicroFrontend(), samples.tobytes()
    outputs = [front_end.process_samples(audio[at : at + 320]).features for at in range(0, len(audio) - 319, 320)]
    return np.array([values for values in outputs if values], dtype=np.float32).reshape(-1, 40)


def int16(signal: np.ndarray) -> np.ndarray:
    return np.clip(np.round(signal), -32768, 32767).astype(np.int16)


def noise(deviation: float) -> np.ndarray:
    return int16(np.random.default_rng(0).normal(0.0, deviation, len(TIME)))


def square(half_period: int) -> np.ndarray:
    return np.where(TIME // half_period % 2 == 0, 32767, -32768).astype(np.int16)


def impulses(period: int, value: int) -> np.ndarray:
    return np.where(TIME % period == 0, value, 0).astype(np.int16)


def drawn_loudness() -> np.ndarray:
    generator = np.random.default_rng(1)
    loudness = np.exp(generator.uniform(0.0, 12.0, len(TIME) // 1600)).repeat(1600)
    return int16(generator.normal(0.0, 1.0, len(TIME)) * loudness)


SIGNALS = {
    "silence": int16(0.0 * TIME),
    "lowest value": np.full(len(TIME), -32768, dtype=np.int16),
    "full-scale square wave": square(40),
    "full-scale square wave near the top": square(4),
    "full scale at the Nyquist frequency": square(1),
    "random signs at full scale": np.random.default_rng(2).choice(np.array([-32768, 32767], dtype=np.int16), len(TIME)),
    "impulses up": impulses(3201, 32767),
    "impulses down": impulses(1237, -32768),
    "impulses down over small ones": np.minimum(impulses(1237, -32768), 0) + impulses(991, 3),
    "very quiet tone": int16(1.4 * np.sin(2 * math.pi * 440 * TIME / RATE)),
    "full-scale sweep": int16(32767 * np.sin(math.pi * 8000 / 3 * (TIME / RATE) ** 2)),
    "loudness that jumps": drawn_loudness(),
    **{f"white noise of deviation {deviation}": noise(deviation) for deviation in (0.5, 2, 30, 1000, 8000, 100000)},
}


@pytest.mark.parametrize("name", SIGNALS)
def test_every_value_is_pymicro_features(name: str) -> None:
    values = MicroMFB().integers(SIGNALS[name])
    assert values.dtype == np.uint16
    assert values.shape == (298, 40)
    np.testing.assert_array_equal(values * np.float32(OUTPUT_SCALE), peer(SIGNALS[name]))


@pytest.mark.parametrize("speaker", ["slt", "bdl"])
def test_every_value_is_pymicro_features_on_speech(recordings: Path, speaker: str) -> None:
    files = sorted((recordings / "arctic" / "audio" / speaker).glob("*.opus"))[:8]
    samples = np.concatenate([load_audio(file, RATE) for file in files])
    expected = peer(int16(samples * 32768.0))
    assert expected.any(axis=0).all()
    features, frames = MicroMFB()(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    assert features.dtype == torch.float32
    assert frames.tolist() == [len(expected)]
    np.testing.assert_array_equal(features[0].numpy(), expected)


@pytest.mark.parametrize(
    ("settings", "checksum"),
    [
        ({}, 0xEC06311B),
        ({"sample_rate_hz": 8000, "high_hz": 3800.0, "num_mels": 23}, 0xC2873DEB),
        ({"sample_rate_hz": 48000, "high_hz": 20000.0, "num_mels": 80}, 0x19668830),
        ({"frame_seconds": 0.025, "hop_seconds": 0.020, "num_mels": 32}, 0xD545F2B1),
        ({"frame_seconds": 0.064, "low_hz": 0.0, "num_mels": 128}, 0x0EEF204F),
        ({"enable_pcan": False}, 0x49DBAB83),
        ({"enable_log": False}, 0x4C6D13E5),
        ({"enable_pcan": False, "enable_log": False}, 0xCFBEE265),
        ({"smoothing_bits": 7, "even_smoothing": 0.1, "odd_smoothing": 0.9, "min_signal_remaining": 0.3}, 0xDE9EF7CD),
        ({"pcan_strength": 0.5, "pcan_offset": 1.0, "gain_bits": 18, "scale_shift": 9}, 0x992978EF),
    ],
)
def test_other_settings_give_the_c_librarys_values(settings: dict, checksum: int) -> None:
    # Checksums of what the C sources of pymicro-features 2.0.2 compute, compiled with these settings.
    place = np.arange(2 * settings.get("sample_rate_hz", RATE), dtype=np.int64)
    noise = (((place * place * 7919) >> 5 ^ place * 104729) & 0xFFFF) - 32768
    samples = (noise >> (place // 1600 % 13)).astype(np.int16)
    assert zlib.crc32(MicroMFB(**settings).integers(samples).astype("<u2").tobytes()) == checksum


def test_a_batch_gives_what_each_utterance_alone_gives() -> None:
    lengths = torch.tensor([48000, 30001, 480, 479, 0])
    waveform = torch.randn(5, 48000, generator=torch.Generator().manual_seed(0)) * 0.1  # also beyond each end
    front_end = MicroMFB()
    features, frames = front_end(waveform, lengths)
    assert features.shape == (5, 298, 40)
    assert frames.tolist() == front_end.output_lengths(lengths).tolist() == [298, 185, 1, 0, 0]
    for row, samples, length, count in zip(features, waveform, lengths, frames, strict=True):
        alone, _ = front_end(samples[None, :length], length[None])
        assert torch.equal(row[:count], alone[0])
        assert not row[count:].any()
    assert features[0].any()


def test_state_starts_fresh_with_each_call() -> None:
    front_end, samples = MicroMFB(), noise(1000)
    first = front_end.integers(samples)
    assert (front_end.integers(samples) == first).all()
    assert (front_end.integers(samples[160:])[0] != first[1]).any()  # the noise estimate of the first frame is gone


def test_samples_are_rounded_and_clamped_to_16_bits() -> None:
    samples = np.concatenate([noise(30000), np.array([32767, -32768], dtype=np.int16)])
    waveform = torch.from_numpy(samples / np.float32(32768.0))
    beyond = torch.where(waveform.abs() > 0.999, waveform * 3.0, waveform + 0.4 / 32768)
    clamped = np.where(np.abs(samples) > 0.999 * 32768, np.where(samples > 0, 32767, -32768), samples)
    features, _ = MicroMFB()(beyond[None], torch.tensor([len(samples)]))
    expected = MicroMFB().integers(clamped.astype(np.int16)) * np.float32(OUTPUT_SCALE)
    np.testing.assert_array_equal(features[0].numpy(), expected)


def test_shorter_than_a_frame_is_no_frame() -> None:
    features, frames = MicroMFB()(torch.zeros(2, 100), torch.tensor([100, 50]))
    assert features.shape == (2, 0, 40)
    assert frames.tolist() == [0, 0]


def test_no_gradient_passes() -> None:
    waveform = torch.zeros(1, 4800, requires_grad=True)
    assert not MicroMFB()(waveform, torch.tensor([4800]))[0].requires_grad


def test_every_argument_is_kept_under_its_name() -> None:
    front_end = MicroMFB(num_mels=32)
    for name, parameter in inspect.signature(MicroMFB).parameters.items():
        assert getattr(front_end, name) == (32 if name == "num_mels" else parameter.default)
    assert front_end.num_features == 32
    assert not front_end.state_dict()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sample_rate_hz", 0),
        ("num_mels", 0),
        ("low_hz", -1.0),
        ("high_hz", 8000.0),
        ("high_hz", 7999.9999),
        ("even_smoothing", 1.5),
        ("odd_smoothing", -0.1),
        ("min_signal_remaining", 2.0),
        ("pcan_strength", -1.0),
        ("pcan_offset", 0.0),
        ("scale_shift", 32),
        ("hop_seconds", 0.031),
        ("hop_seconds", 0.0),
        ("smoothing_bits", 2),
        ("gain_bits", 14),
        ("gain_bits", 32),
    ],
)
def test_an_argument_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"`{name}`.*{value}"):
        MicroMFB(**{name: value})


@pytest.mark.parametrize("samples", [np.zeros(480), np.zeros((1, 480), dtype=np.int16)])
def test_integers_takes_one_row_of_int16(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`samples` must be int16 of shape \(N,\)"):
        MicroMFB().integers(samples)


def test_roots_are_rounded_but_stay_16_bits_below_32() -> None:
    edges = [root * root + extra for root in (1, 2, 7, 255, 65534, 70000, 2**22) for extra in (0, root, root + 1)]
    exact = [math.isqrt(4 * x) + 1 >> 1 for x in edges]
    assert rounded_root(np.array(edges, dtype=np.float64)).tolist() == exact
    assert rounded_root(np.array([0.0, 2.0**32 - 1, 2.0**32])).tolist() == [0, 65535, 65536]


def test_bit_length_is_pythons() -> None:
    numbers = [0, 1, 2, 3, 4, 1023, 1024, 2**32 - 1, 2**32]
    assert bit_length(np.array(numbers)).tolist() == [number.bit_length() for number in numbers]


def test_log1p_is_within_its_last_bit() -> None:
    x = np.linspace(0.0, 40.0, 10001, dtype=np.float32)
    exact = np.log1p(x.astype(np.float64))
    assert (np.abs(log1p(x) - exact) <= np.spacing(exact.astype(np.float32))).all()
