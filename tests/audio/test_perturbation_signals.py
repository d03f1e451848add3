"""Tempo, pitch, rooms, channels and levels: what each does to a signal that can be measured."""

from collections.abc import Callable

import numpy as np
import pytest

from speechkit.audio import (
    BandLimitPerturbation,
    ClippingPerturbation,
    CodecPerturbation,
    GainPerturbation,
    LevelDriftPerturbation,
    Perturbation,
    PitchPerturbation,
    RoomPerturbation,
    TempoPerturbation,
)
from speechkit.audio.perturbations.channel import CODECS
from speechkit.audio.perturbations.room import reverberate, simulate_room
from speechkit.audio.perturbations.tempo import change_tempo

RATE = 16000
TONE = (0.3 * np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE)).astype(np.float32)
NOISE = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
MAKERS: list[Callable[..., Perturbation]] = [
    BandLimitPerturbation,
    ClippingPerturbation,
    CodecPerturbation,
    LevelDriftPerturbation,
    PitchPerturbation,
    RoomPerturbation,
    TempoPerturbation,
]


def perturb(perturbation: Perturbation, samples: np.ndarray = TONE, seed: int = 0) -> np.ndarray:
    return perturbation(samples, np.random.default_rng(seed))


def peak_hz(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * RATE / len(samples))


def power(samples: np.ndarray) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))


@pytest.mark.parametrize("make", MAKERS)
def test_the_generator_alone_decides_and_the_input_is_untouched(make: Callable[..., Perturbation]) -> None:
    perturbation, samples = make(probability=1.0), TONE.copy()
    results = [perturb(perturbation, samples, seed) for seed in range(3)]
    assert len({result.tobytes() for result in results}) > 1
    assert all(result.dtype == np.float32 for result in results)
    np.testing.assert_array_equal(perturb(perturbation, samples, 1), results[1])
    np.testing.assert_array_equal(samples, TONE)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("num_samples", [0, 1, 2, 50])
def test_tiny_utterances_pass(make: Callable[..., Perturbation], num_samples: int) -> None:
    result = perturb(make(probability=1.0), TONE[1 : 1 + num_samples])
    assert result.shape == (num_samples,)
    assert np.isfinite(result).all()


@pytest.mark.parametrize("make", [*MAKERS, GainPerturbation])
def test_probability_is_the_share_that_changes(make: Callable[..., Perturbation]) -> None:
    samples = TONE[1:400] if make in (CodecPerturbation, GainPerturbation) else TONE[1:3000]
    changed = sum(not np.array_equal(perturb(make(probability=0.5), samples, seed), samples) for seed in range(60))
    assert 18 < changed < 42
    with pytest.raises(ValueError, match=r"`probability` must lie in \[0, 1\], got 1.5"):
        make(probability=1.5)
    assert perturb(make(probability=0.0)) is TONE


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.2, 1.6])
def test_tempo_changes_duration_and_not_pitch(factor: float) -> None:
    result = change_tempo(TONE, factor, RATE)
    assert len(result) == round(RATE / factor)
    assert peak_hz(result) == pytest.approx(200, abs=3)
    middle = result[1000:-1000]
    assert power(middle) == pytest.approx(power(TONE), rel=0.05)


def test_tempo_keeps_the_order_of_events() -> None:
    samples = np.concatenate([TONE, np.zeros(RATE, np.float32), TONE])
    result = change_tempo(samples, 1.25, RATE)
    quiet = np.abs(result[round(1.05 * RATE / 1.25) : round(1.95 * RATE / 1.25)])
    assert quiet.max() < 0.01
    assert np.abs(result[: round(0.9 * RATE / 1.25)]).max() > 0.25


@pytest.mark.parametrize("semitones", [-4, 3])
def test_pitch_changes_and_duration_does_not(semitones: int) -> None:
    result = perturb(PitchPerturbation(semitones, semitones, probability=1.0))
    assert len(result) == RATE
    assert peak_hz(result) == pytest.approx(200 * 2 ** (semitones / 12), abs=3)


def test_a_room_decays_by_60_db_in_its_time_and_has_its_direct_sound() -> None:
    response = simulate_room(0.5, 6.0, RATE, np.random.default_rng(0))
    assert len(response) == 1 + RATE // 2
    tail = response[1:]
    assert 10 * np.log10(1.0 / np.sum(tail**2)) == pytest.approx(6.0)
    left = np.cumsum(tail[::-1] ** 2)[::-1]  # Schroeder's backward integration
    decay_db = 10 * np.log10(left[RATE // 20] / left[RATE // 4])
    assert decay_db == pytest.approx(60 * 0.2 / 0.5, abs=1.0)


def test_reverberation_keeps_place_and_power() -> None:
    delayed = np.concatenate([np.zeros(300), [0.7], np.zeros(100)])
    np.testing.assert_allclose(reverberate(NOISE, delayed), NOISE, atol=1e-6)
    response = simulate_room(0.3, 0.0, RATE, np.random.default_rng(1))
    wet = reverberate(NOISE, response)
    expected = np.convolve(NOISE.astype(np.float64), response)[:RATE]
    np.testing.assert_allclose(wet, expected * np.sqrt(power(NOISE) / np.mean(expected**2)), atol=1e-5)
    assert power(wet) == pytest.approx(power(NOISE), rel=1e-4)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("rate", [8000, 16000])
def test_what_a_codec_leaves_is_still_in_its_place(name: str, rate: int) -> None:
    voice = np.convolve(NOISE, np.hanning(40) / 20, "same").astype(np.float32)
    decoded = perturb(CodecPerturbation([name], probability=1.0, sample_rate_hz=rate), voice)
    assert len(decoded) == len(voice)
    shifts = range(-40, 41)
    likeness = [np.corrcoef(decoded[100:-100], np.roll(voice, shift)[100:-100])[0, 1] for shift in shifts]
    assert max(likeness) > 0.8
    assert abs(shifts[int(np.argmax(likeness))]) <= 8


def test_g711_is_the_standard() -> None:
    """G.711's mu-law: 256 values of up to 14 bits, symmetrical, and the greatest is 32124 of 32768 (table 2a)."""
    ramp = np.linspace(-1, 1, 20001, dtype=np.float32)
    values = np.unique(perturb(CodecPerturbation(["mu-law"], probability=1.0), ramp))
    assert len(values) in (255, 256)  # two codes are of zero
    assert values.max() * 32768 == 32124
    np.testing.assert_array_equal(values, -values[::-1])


def test_a_band_is_all_that_is_left() -> None:
    result = perturb(BandLimitPerturbation(300, 7999, probability=1.0), NOISE, 3)
    low_hz = np.random.default_rng(3).uniform(size=2)[1] * 300
    spectrum = np.abs(np.fft.rfft(result)) ** 2 / np.abs(np.fft.rfft(NOISE)) ** 2
    hz = np.fft.rfftfreq(RATE, 1 / RATE)
    assert np.median(spectrum[(hz > 2 * low_hz) & (hz < 5000)]) == pytest.approx(1.0, abs=0.1)
    assert np.median(spectrum[(hz > 0) & (hz < low_hz / 3)]) < 0.01


def test_clipping_cuts_the_peaks_alone() -> None:
    result = perturb(ClippingPerturbation(6.0206, 6.0206, probability=1.0))
    np.testing.assert_allclose(result, np.clip(TONE, -0.15, 0.15), atol=1e-5)


def test_drift_stays_in_its_range_and_moves() -> None:
    gains_db = 20 * np.log10(perturb(LevelDriftPerturbation(6.0, probability=1.0), np.ones(RATE, np.float32)))
    assert np.abs(gains_db).max() <= 6.001
    assert np.ptp(gains_db) > 1
    assert np.abs(np.diff(gains_db)).max() < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TempoPerturbation(1.1, 0.9), "`low_factor` and `high_factor` must satisfy 0.5 <="),
        (lambda: PitchPerturbation(-13, 0), "`low_semitones`"),
        (lambda: RoomPerturbation(0.5, 0.1), "`low_seconds`"),
        (lambda: ClippingPerturbation(-1), "`low_db`"),
        (lambda: LevelDriftPerturbation(num_moments=1), "`num_moments`"),
        (lambda: BandLimitPerturbation(high_hz=9000), "sample_rate_hz / 2, got 300.0 and 9000 at 16000 Hz"),
        (lambda: CodecPerturbation(["flac"]), "`codecs` must be some of mu-law"),
        (lambda: CodecPerturbation([]), "`codecs`"),
        (lambda: CodecPerturbation(["opus"], sample_rate_hz=11025), "for opus, got 11025"),
    ],
)
def test_wrong_values_are_named(make: Callable[[], Perturbation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
