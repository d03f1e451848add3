"""Waveform perturbations: what they change, and that the generator alone decides."""

import numpy as np
import pytest

from speechkit.audio import GainPerturbation, NoisePerturbation, Perturbation, SpeedPerturbation

RATE = 16000
TONE = (0.3 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)).astype(np.float32)
ALL = [SpeedPerturbation(), GainPerturbation(), NoisePerturbation(probability=1.0)]


def perturb(perturbation: Perturbation, seed: int = 0, samples: np.ndarray = TONE) -> np.ndarray:
    return perturbation(samples, np.random.default_rng(seed))


@pytest.mark.parametrize("perturbation", ALL)
def test_the_generator_alone_decides(perturbation: Perturbation) -> None:
    results = [perturb(perturbation, seed) for seed in range(5)]
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(perturb(perturbation, seed), result)
    assert len({result.tobytes() for result in results}) > 1


@pytest.mark.parametrize("perturbation", ALL)
def test_float32_in_and_out_and_the_input_is_untouched(perturbation: Perturbation) -> None:
    samples = TONE.copy()
    assert perturb(perturbation, samples=samples).dtype == np.float32
    np.testing.assert_array_equal(samples, TONE)


@pytest.mark.parametrize("perturbation", ALL)
@pytest.mark.parametrize("num_samples", [0, 1, 2])
def test_tiny_utterances_pass(perturbation: Perturbation, num_samples: int) -> None:
    result = perturb(perturbation, samples=TONE[1 : 1 + num_samples])
    assert np.isfinite(result).all()
    assert abs(len(result) - num_samples) <= 1


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.25])
def test_speed_changes_duration_and_pitch_by_the_factor(factor: float) -> None:
    fast = perturb(SpeedPerturbation(factor, factor))
    assert abs(len(fast) - RATE / factor) <= 1
    peak_hz = np.abs(np.fft.rfft(fast * np.hanning(len(fast)))).argmax() * RATE / len(fast)
    assert abs(peak_hz - 500 * factor) < 2


def test_speed_stays_in_its_range() -> None:
    lengths = [len(perturb(SpeedPerturbation(0.9, 1.1), seed)) for seed in range(200)]
    assert RATE / 1.1 - 1 <= min(lengths) < RATE / 1.05
    assert RATE / 0.95 < max(lengths) <= RATE / 0.9 + 1


def test_gain_stays_in_its_range() -> None:
    gains = [np.abs(perturb(GainPerturbation(-6, 6), seed)).max() / np.abs(TONE).max() for seed in range(200)]
    assert 0.5 < min(gains) < 0.6
    assert 1.7 < max(gains) < 2.0


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_noise_has_the_ratio_that_is_asked_for(snr_db: float) -> None:
    noise = perturb(NoisePerturbation(snr_db, snr_db, probability=1.0)).astype(np.float64) - TONE
    measured_db = 10 * np.log10(np.mean(TONE.astype(np.float64) ** 2) / np.mean(noise**2))
    assert abs(measured_db - snr_db) < 0.05


def test_noise_leaves_silence_silent() -> None:
    result = perturb(NoisePerturbation(probability=1.0), samples=np.zeros(100, np.float32))
    np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("perturbation", [SpeedPerturbation(1.2, 1.2, 0.5), NoisePerturbation(probability=0.5)])
def test_probability_is_the_share_that_changes(perturbation: Perturbation) -> None:
    changed = sum(not np.array_equal(perturb(perturbation, seed, TONE[:100]), TONE[:100]) for seed in range(200))
    assert 70 < changed < 130


def test_speed_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`low` and `high` must satisfy .*got 1.1 and 0.9"):
        SpeedPerturbation(1.1, 0.9)


def test_gain_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="`low_db` must be at most `high_db`"):
        GainPerturbation(3, -3)


def test_noise_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="`low_snr_db` must be at most `high_snr_db`"):
        NoisePerturbation(30, 10)
