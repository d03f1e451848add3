"""The integer front end for training and export: tables from a float front end, and its codes over batches.

The arithmetic itself is defined in `speechkit.runtime.front_end`, without torch.
"""

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechkit.features.convolution import refuse_special
from speechkit.features.framing import window_function, with_edges
from speechkit.features.mel import mel_filters
from speechkit.features.mfb import INT16_SCALE, MFB, check_finite
from speechkit.features.mfcc import MFCC, dct_matrix, lifter_weights
from speechkit.masking import length_mask
from speechkit.quantization import QParams
from speechkit.runtime.front_end import (
    ENERGY_BITS,
    FILTER_BITS,
    LOG_BITS,
    POWER_SHIFT,
    SAMPLE_BITS,
    WINDOW_BITS,
    IntegerTables,
    dft_tables,
)

_BLOCK_FRAMES = 4096


def integer_tables(mfb: MFB, qparams: QParams, mean: Tensor | None = None, std: Tensor | None = None) -> IntegerTables:
    """The tables of a front end, its CMVN and its output domain.

    Args:
        mfb: `MFB` or `MFCC`, of power spectra, with a logarithm; without dither, energy column and `dynamic_range`.
        qparams: int8, one scale and zero point for all features.
        mean: (F,) of the features; 0 if not given.
        std: (F,) of the features; 1 if not given.

    Raises:
        ValueError: an option that has no integer form, or frames so long that a sum could overflow.
    """
    refuse_special(mfb, "integers")
    if not mfb.use_power:
        raise ValueError("`use_power` must be true for a front end in integers, got False.")
    if mfb.log == "none":
        raise ValueError("`log` must be a logarithm for a front end in integers, got 'none'.")
    if qparams.dtype != "int8" or qparams.axis is not None:
        raise ValueError(f"`qparams` must be int8 with one scale for all features, got {qparams}.")
    high_hz = mfb.high_hz if mfb.high_hz > 0 else mfb.sample_rate_hz / 2 + mfb.high_hz
    vtln_high_hz = mfb.vtln_high_hz if mfb.vtln_high_hz > 0 else mfb.sample_rate_hz / 2 + mfb.vtln_high_hz
    filters = mel_filters(
        mfb.num_mels,
        mfb.fft_length,
        mfb.sample_rate_hz,
        mfb.low_hz,
        high_hz,
        scale=mfb.mel_scale,
        straight_in=mfb.straight_in,
        area_norm=mfb.area_norm,
        vtln_warp=mfb.vtln_warp,
        vtln_low_hz=mfb.vtln_low_hz,
        vtln_high_hz=vtln_high_hz,
    ).numpy()
    peak = filters.max(axis=0)
    weights = np.rint(filters / peak * (1 << FILTER_BITS)).astype(np.int32)
    nonzero = [np.flatnonzero(weights[:, place]) for place in range(mfb.num_mels)]
    start = np.array([bins[0] for bins in nonzero], dtype=np.int32)
    length = np.array([bins[-1] + 1 - bins[0] for bins in nonzero], dtype=np.int32)
    packed = np.concatenate([weights[a : a + n, m] for m, (a, n) in enumerate(zip(start, length, strict=True))])
    twiddle_bits = min(20, 52 - 23 - (mfb.frame_length - 1).bit_length())
    angle = 2.0 * np.pi * np.arange(mfb.fft_length) / mfb.fft_length
    window = window_function(mfb.window, mfb.frame_length, mfb.blackman_coefficient).numpy()
    log_table = np.rint(np.log2(1.0 + np.arange(257) / 256.0) * (1 << LOG_BITS)).astype(np.int32)

    # feature = unit * (log2(integer energy) + bias): bias undoes the fraction bits and restores the filters' peaks
    unit = {"ln": np.log(2.0), "log10": np.log10(2.0), "db": 10.0 * np.log10(2.0)}[mfb.log]
    bias = np.log2(peak * (mfb.sample_scale / INT16_SCALE) ** 2) - ENERGY_BITS
    transform = np.eye(mfb.num_mels)
    if isinstance(mfb, MFCC):
        lifter = lifter_weights(mfb.num_coefficients, mfb.lifter)
        transform = (dct_matrix(mfb.num_mels, mfb.num_coefficients) * lifter).numpy()
        if mfb.htk_compat:
            transform = np.concatenate([transform[:, 1:], transform[:, :1] * np.sqrt(2.0)], axis=1)
    spread = np.ones(transform.shape[1]) if std is None else std.double().numpy()
    center = np.zeros(transform.shape[1]) if mean is None else mean.double().numpy()
    assert isinstance(qparams.scale, float)
    step = spread * qparams.scale
    multiplier = unit * transform / step / (1 << LOG_BITS)
    offset = (unit * (bias @ transform) - center) / step + np.asarray(qparams.zero_point, dtype=np.float64)
    shift = int(np.floor(min(30.0 - np.log2(np.abs(multiplier).max()), 61.0 - np.log2(np.abs(offset).max() + 128.0))))
    floor = np.log2(mfb.floor) - np.log2((mfb.sample_scale / INT16_SCALE) ** 2) + ENERGY_BITS
    tables = IntegerTables(
        frame_length=mfb.frame_length,
        hop_length=mfb.hop_length,
        fft_length=mfb.fft_length,
        remove_dc=int(mfb.remove_dc),
        preemphasis=round(mfb.preemphasis * (1 << WINDOW_BITS)),
        twiddle_bits=twiddle_bits,
        shift=shift,
        zero_energy_log=round(min(floor, 0.0) * (1 << LOG_BITS)),
        code_min=qparams.quant_min,
        code_max=qparams.quant_max,
        window=np.rint(window * (1 << WINDOW_BITS)).astype(np.int32),
        cosine=np.rint(np.cos(angle) * (1 << twiddle_bits)).astype(np.int32),
        filter_start=start,
        filter_length=length,
        filter_weight=packed,
        log_table=log_table,
        multiplier=np.rint(multiplier * 2.0**shift).astype(np.int64),
        offset=np.rint(offset * 2.0**shift).astype(np.int64),
    )
    _refuse_overflow(tables)
    return tables


def _refuse_overflow(tables: IntegerTables) -> None:
    """Raises ValueError where some int16 signal could pass the 32 bits of the spectrum or the 64 of a sum.

    A pre-emphasised sample is at most 2^21 (1 + p), with the mean removed 2^21 (1 + p + 1 - p). The bins are at most
    the sum of the windowed samples' magnitudes, their energies together N / 2 times the sum of the squares. A
    thousandth is left for roundings.
    """
    share = tables.preemphasis / (1 << WINDOW_BITS)
    peak = float(1 << (SAMPLE_BITS + 15)) * (2.0 if tables.remove_dc else 1.0 + share)
    windowed = peak * np.abs(tables.window) / (1 << WINDOW_BITS)
    energy = tables.fft_length / 2 * np.square(windowed).sum() * float(1 << FILTER_BITS) / (1 << POWER_SHIFT)
    features = np.abs(tables.multiplier.astype(np.float64)).sum(axis=0) * 63.0 * (1 << LOG_BITS) + np.abs(tables.offset)
    for name, value, bits in (
        ("spectrum", windowed.sum(), 31),
        ("mel energies", energy, 63),
        ("codes", max(features), 63),
    ):
        if value > 0.999 * 2.0**bits:
            raise ValueError(
                f"`frame_seconds` and `sample_rate_hz` must keep the {name} below 2^{bits} for every signal, "
                f"got frames of {tables.frame_length} samples with 2^{np.log2(value):.1f}."
            )


class IntegerMFB(torch.nn.Module):
    """`integer_codes` in torch, over batches: waveform -> int8 codes. It has no gradient.

    Args:
        mfb: `MFB` or `MFCC`; see `integer_tables`.
        qparams: output domain.
        mean: (F,) of the features; 0 if not given.
        std: (F,) of the features; 1 if not given.

    Raises:
        ValueError: as `integer_tables`.
    """

    def __init__(self, mfb: MFB, qparams: QParams, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()
        self.tables = integer_tables(mfb, qparams, mean, std)
        self.mfb, self.qparams, self.mean, self.std = mfb, qparams, mean, std
        self.frame_length, self.hop_length, self.edges = mfb.frame_length, mfb.hop_length, mfb.edges
        self.sample_rate_hz, self.hop_seconds, self.num_features = mfb.sample_rate_hz, mfb.hop_seconds, mfb.num_features
        for field in fields(self.tables):
            table = getattr(self.tables, field.name)
            if isinstance(table, np.ndarray):
                self.register_buffer(f"_{field.name}", torch.from_numpy(table.astype(np.int64)), persistent=False)
        cosine, sine = dft_tables(self.tables)
        self._dft: Tensor
        self._filter_weight: Tensor
        self._log_table: Tensor
        self._multiplier: Tensor
        self.register_buffer("_dft", torch.from_numpy(np.concatenate([cosine, sine], axis=1)), persistent=False)

    def output_lengths(self, num_samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames."""
        return self.mfb.output_lengths(num_samples)

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> int8 codes (B, T, F), frames (B,).

        Samples are rounded to 16 bits first. Beyond an utterance's end stands the code of zero.
        """
        if waveform.device.type == "cpu" and not torch.compiler.is_compiling():
            check_finite(waveform, lengths)
        frames = self.output_lengths(lengths)
        count = int(self.output_lengths(torch.tensor(waveform.shape[1])))
        edged = with_edges(waveform.float(), lengths, self.frame_length, self.hop_length, self.edges)
        codes = self.of_edged(edged, count)
        inside = length_mask(frames, count)[:, :, None]
        return codes.masked_fill(~inside, self.qparams.zero_point), frames

    @torch.no_grad()
    def of_edged(self, waveform: Tensor, num_frames: int) -> Tensor:
        """A waveform (B, N) whose edges are laid on -> int8 codes (B, T, F) of its first frames."""
        samples = (waveform.float() * INT16_SCALE).round().clamp(-32768, 32767)
        if samples.shape[1] < self.frame_length:
            samples = torch.nn.functional.pad(samples, (0, self.frame_length - samples.shape[1]))
        frames = samples.unfold(1, self.frame_length, self.hop_length)[:, : max(num_frames, 1)]
        size = max(1, _BLOCK_FRAMES // max(1, len(frames)))
        return torch.cat([self._codes(block.long()) for block in frames.split(size, dim=1)], dim=1)[:, :num_frames]

    def _codes(self, frames: Tensor) -> Tensor:
        tables: Any = self.tables
        x = frames << SAMPLE_BITS
        if tables.remove_dc:
            total = x.sum(dim=-1, keepdim=True)
            mean = (2 * total + tables.frame_length).div(2 * tables.frame_length, rounding_mode="floor")
            x = x - mean
        before = torch.cat([x[..., :1], x[..., :-1]], dim=-1)
        x = _rounded_shift_(x * (1 << WINDOW_BITS) - tables.preemphasis * before, WINDOW_BITS)
        x = _rounded_shift_(x * self._window, WINDOW_BITS)
        spectrum = _rounded_shift_(torch.matmul(x.double(), self._dft).long(), tables.twiddle_bits)
        real, imaginary = spectrum.chunk(2, dim=-1)
        power = _rounded_shift_(real * real + imaginary * imaginary, POWER_SHIFT)
        energies, done = [], 0
        for start, length in zip(tables.filter_start.tolist(), tables.filter_length.tolist(), strict=True):
            weights = self._filter_weight[done : done + length]
            energies.append((power[..., start : start + length] * weights).sum(dim=-1))
            done += length
        log = self._log2(torch.stack(energies, dim=-1))
        if isinstance(self.mfb, MFCC):
            features = torch.stack([(log * column).sum(dim=-1) for column in self._multiplier.T], dim=-1)
        else:
            features = log * self._multiplier.diagonal()
        codes = _rounded_shift_(features + self._offset, tables.shift)
        return codes.clamp(tables.code_min, tables.code_max).to(torch.int8)

    def _log2(self, energy: Tensor) -> Tensor:
        positive = energy.clamp(min=1)
        top = torch.frexp(positive.double()).exponent.long() - 1
        top = top - (torch.ones_like(top) << top).gt(positive).long()
        drop = top - 23
        mantissa = torch.where(drop >= 0, positive >> drop.clamp(min=0), positive << (-drop).clamp(min=0)) - (1 << 23)
        place, rest = mantissa >> 15, mantissa & 0x7FFF
        low, high = self._log_table[place], self._log_table[place + 1]
        log = (top << LOG_BITS) + low + (((high - low) * rest) >> 15)
        return torch.where(energy > 0, log, self.tables.zero_energy_log)


def _rounded_shift_(x: Tensor, bits: int) -> Tensor:
    return x.add_(1 << (bits - 1)).__irshift__(bits)
