"""The fast integer front end gives the codes of its definition, and of the front end in torch."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from speechkit.features import MFB, MFCC, QuantizedFrontEnd
from speechkit.runtime.front_end import FoldedTransform, IntegerFrontEnd, dft_tables, integer_codes


def signals(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    square = np.where(np.arange(size) // 13 % 2, 1.0, -1.0)
    tone = 4.0 * np.sin(np.arange(size) * 2.2)  # clipped, and in few bins, where powers and energies pass 2^53
    return [rng.standard_normal(size) * 0.1, square, tone, np.zeros(size), rng.standard_normal(size) * 1e-4]


@pytest.mark.parametrize(
    "features",
    [MFB(sample_rate_hz=8000, num_mels=40), MFB(num_mels=80, remove_dc=False), MFCC(sample_rate_hz=8000)],
)
def test_codes_are_those_of_the_definition(features: MFB) -> None:
    front_end = QuantizedFrontEnd(features, arithmetic="integer")
    tables = front_end.integer().tables
    fast = IntegerFrontEnd(tables)
    energies: list[int] = []
    for signal in signals(3 * features.sample_rate_hz + 7):
        waveform = signal.astype(np.float32)
        samples = np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
        frames = np.lib.stride_tricks.sliding_window_view(samples, tables.frame_length)[:: tables.hop_length]
        codes = fast(waveform)
        steps: dict[str, Any] = {}
        assert np.array_equal(codes, integer_codes(frames, tables, steps=steps))
        energies.append(int(steps["energy"].max()))
        expected, _ = front_end(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        assert np.array_equal(codes, expected[0].numpy())
    assert min(energies) < 2**53 <= max(energies)  # both ways of every step


def test_less_than_a_frame_has_no_codes() -> None:
    front_end = IntegerFrontEnd(QuantizedFrontEnd(MFB(), arithmetic="integer").integer().tables)
    assert front_end(np.zeros(399, np.float32)).shape == (0, 80)


@pytest.mark.parametrize(("fft_length", "frame_length"), [(4, 3), (8, 8), (64, 64), (512, 400), (512, 60), (60, 41)])
def test_the_folded_transform_is_the_whole_one(fft_length: int, frame_length: int) -> None:
    cosine = np.rint(np.cos(2 * np.pi * np.arange(fft_length) / fft_length) * 2.0**20).astype(np.int32)
    tables = SimpleNamespace(fft_length=fft_length, frame_length=frame_length, twiddle_bits=20, cosine=cosine)
    x = np.random.default_rng(0).integers(-(2**23), 2**23, (5, frame_length)).astype(np.float64)
    real, imaginary = (x @ table * 2.0**-20 for table in dft_tables(tables))
    expected = real[:, ::2], imaginary[:, ::2], real[:, 1::2], imaginary[:, 1::2]
    for got, wanted in zip(FoldedTransform(tables)(x), expected, strict=True):
        assert np.array_equal(got, wanted)


def test_a_cosine_that_folds_to_something_else_is_refused() -> None:
    tables = QuantizedFrontEnd(MFB(), arithmetic="integer").integer().tables
    cosine = tables.cosine.copy()
    cosine[3] += 1
    with pytest.raises(ValueError, match="`cosine` must be the same backwards"):
        IntegerFrontEnd(dataclasses.replace(tables, cosine=cosine))
