"""Segments: the same however the samples come; cut at pauses; silence left out; nothing of speech lost."""

import itertools

import numpy as np
import pytest

from speechkit.audio import AudioSegment, Segmenter, VoiceActivityDetector

RATE = 8000


def bursts(*seconds: float, level: float = 0.1, noise: float = 1e-4) -> np.ndarray:
    """Quiet and noise-like speech in turn, quiet first."""
    generator = np.random.default_rng(0)
    parts = [
        (level if place % 2 else noise) * generator.standard_normal(round(length * RATE))
        for place, length in enumerate(seconds)
    ]
    return np.concatenate(parts).astype(np.float32)


def segments_of(samples: np.ndarray, chunk: int | None = None, **options: float) -> list[AudioSegment]:
    segmenter, found = Segmenter(RATE, **options), []
    for start in range(0, len(samples), chunk or len(samples)):
        found += segmenter.push(samples[start : start + (chunk or len(samples))])
    return found + segmenter.finish()


@pytest.mark.parametrize("chunk", [1, 79, 80, 1003])
def test_pieces_do_not_matter(chunk: int) -> None:
    samples = bursts(0.5, 2.0, 1.5, 0.3, 0.2, 9.0, 3.0, 1.0) if chunk > 1 else bursts(0.2, 0.5, 1.2, 0.3)
    whole, pieces = segments_of(samples, max_seconds=6.0), segments_of(samples, chunk, max_seconds=6.0)
    assert [segment[2:] for segment in whole] == [segment[2:] for segment in pieces]
    for one, other in zip(whole, pieces, strict=True):
        assert np.array_equal(one.samples, other.samples)
        assert np.array_equal(one.levels, other.levels)
        assert len(one.levels) == len(one.samples) // 80


def test_a_pause_ends_a_segment_and_silence_is_left_out() -> None:
    found = segments_of(bursts(2.0, 1.0, 1.6, 1.0, 0.5, 1.0, 5.0), padding_seconds=0.4)
    assert [(segment.start / RATE, segment.end / RATE) for segment in found] == [
        (pytest.approx(1.6, abs=0.05), pytest.approx(3.4, abs=0.1)),
        (pytest.approx(4.2, abs=0.1), pytest.approx(7.5, abs=0.1)),
    ]
    assert not any(segment.shares_start or segment.shares_end for segment in found)


def test_speech_without_pause_is_cut_where_it_is_quietest() -> None:
    samples = bursts(0.1, 13.9, 0.4, 12.0)
    first, second = segments_of(samples)
    assert first.end == second.start
    assert 14.0 < first.end / RATE < 14.4
    assert first.shares_end
    assert second.shares_start
    assert not second.shares_end
    for segment in (first, second):
        assert np.array_equal(segment.samples, samples[segment.offset : segment.offset + len(segment.samples)])
    assert len(first.samples) == first.end + RATE
    assert second.offset == second.start - RATE


def test_own_parts_are_all_of_the_speech() -> None:
    found = segments_of(bursts(0.1, 100.0))
    assert all(one.end == other.start for one, other in itertools.pairwise(found))
    assert found[0].start < 0.15 * RATE
    assert found[-1].end == round(100.1 * RATE)
    assert max(len(segment.samples) for segment in found) <= 20 * RATE


def test_noise_rises_and_speech_is_still_found() -> None:
    found = segments_of(
        np.concatenate([bursts(1.0, 1.0, 20.0, noise=3e-3), bursts(0.1, 1.0, 3.0, level=0.05, noise=3e-3)])
    )
    assert abs(found[-1].start / RATE - 21.7) < 0.2
    assert abs(found[-1].end / RATE - 23.5) < 0.2


def test_an_offset_is_not_speech() -> None:
    assert segments_of(bursts(5.0) + 0.2) == []


def test_levels_are_of_full_scale() -> None:
    time = np.arange(RATE) / RATE
    levels, speech = VoiceActivityDetector(RATE).push(np.sin(2 * np.pi * 1000 * time).astype(np.float32))
    assert levels[10:] == pytest.approx(-3.01, abs=0.01)
    assert len(speech) == 100


def test_lengths_must_leave_room() -> None:
    with pytest.raises(ValueError, match=r"`pause_seconds` must be at least twice `padding_seconds` = 0\.4, got 0\.5"):
        Segmenter(RATE, pause_seconds=0.5)
    with pytest.raises(ValueError, match=r"`max_seconds` must be at least six times `context_seconds` = 1\.0, got 5"):
        Segmenter(RATE, max_seconds=5.0)
