"""MFB and MFCC in integers alone, in numpy: the golden reference that torch and firmware follow bit for bit.

16-bit samples in, int8 codes q out, r = S (q - Z). Every step is an integer sum, product, shift or table look-up, so
numpy, torch and C give the same codes, whatever the chunks and threads. All divisions by powers of two round half up,
(x + half) >> shift.

| step | result | fraction bits |
|---|---|---|
| frame minus its mean (one integer division a frame) | int32 | 6 |
| pre-emphasis, coefficient with 15 bits | int32 | 6 |
| window with 15 bits | int32, below 2^23 | 6 |
| Fourier transform with a cosine table of `twiddle_bits` bits | int32, below 2^31 | 6 |
| power | int64, below 2^62 | 12, then 3 |
| mel filters with 11 bits | int64 | 14 |
| log2: leading bit, then a table of 257 values with linear interpolation | int32 | 20 |
| CMVN and quantization: one multiply-add a feature (MFCC: one matrix) | int64 | `shift` |
| rounded and clamped | int8 | |

The Fourier transform is a product of integer matrices. In float64 its sums stay below 2^53 and so are exact in any
order, which makes a BLAS product of it; C adds them in 64-bit integers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

SAMPLE_BITS, WINDOW_BITS, FILTER_BITS, LOG_BITS = 6, 15, 11, 20
POWER_SHIFT = 9  # 12 fraction bits -> 3
ENERGY_BITS = 2 * SAMPLE_BITS - POWER_SHIFT + FILTER_BITS
INT16_SCALE = 32768.0  # from [-1, 1] to 16-bit samples
_BLOCK_FRAMES = 64  # whose intermediate results stay in the cache
_EXACT = 2.0**53  # below it every whole number has a place in float64


@dataclass(frozen=True)
class IntegerTables:
    """Everything that the integer front end multiplies with. Scalars are plain integers, tables numpy arrays.

    Attributes:
        frame_length: samples of a frame, L.
        hop_length: samples between frames.
        fft_length: N.
        remove_dc: 1 or 0.
        preemphasis: with 15 bits.
        twiddle_bits: of `cosine`.
        shift: of the last multiply-add.
        zero_energy_log: the log2 that stands for an energy of 0.
        code_min: lowest code.
        code_max: highest code.
        window: int32 (L,), with 15 bits.
        cosine: int32 (N,), cos(2 pi n / N); its entry n - N/4 is the sine.
        filter_start: int32 (M,), first bin of each filter.
        filter_length: int32 (M,), number of its bins.
        filter_weight: int32 (sum of lengths,), the weights one filter behind the other, with 11 bits.
        log_table: int32 (257,), log2(1 + i / 256), with 20 bits.
        multiplier: int64 (M, F), log energies -> features; for MFB a diagonal matrix.
        offset: int64 (F,).
    """

    frame_length: int
    hop_length: int
    fft_length: int
    remove_dc: int
    preemphasis: int
    twiddle_bits: int
    shift: int
    zero_energy_log: int
    code_min: int
    code_max: int
    window: np.ndarray
    cosine: np.ndarray
    filter_start: np.ndarray
    filter_length: np.ndarray
    filter_weight: np.ndarray
    log_table: np.ndarray
    multiplier: np.ndarray
    offset: np.ndarray

    def __post_init__(self) -> None:
        """Raises ValueError where sizes or ranges do not fit each other."""
        num_filters, num_features = len(self.filter_start), len(self.offset)
        ends = self.filter_start + self.filter_length if len(self.filter_length) == num_filters else np.array([-1])
        for name, is_met in {
            "frame_length": 0 < self.frame_length <= self.fft_length,
            "hop_length": self.hop_length > 0,
            "twiddle_bits": 0 < self.twiddle_bits < 32,
            "shift": 0 <= self.shift < 63,
            "code_min": -128 <= self.code_min < self.code_max <= 127,
            "window": self.window.shape == (self.frame_length,),
            "cosine": self.cosine.shape == (self.fft_length,),
            "filter_start": num_filters > 0 and self.filter_start.min() >= 0 and ends.max() <= self.fft_length // 2 + 1,
            "filter_length": len(self.filter_length) == num_filters and self.filter_length.min() >= 0,
            "filter_weight": self.filter_weight.shape == (int(self.filter_length.sum()),),
            "log_table": self.log_table.shape == (257,),
            "multiplier": self.multiplier.shape == (num_filters, num_features),
        }.items():
            if not is_met:
                raise ValueError(f"front end: `{name}` does not fit the other tables.")


def is_symmetric(cosine: np.ndarray) -> bool:
    """Whether a table (N,) of a whole turn is the same backwards, and its negative half a turn on."""
    half = len(cosine) // 2
    return np.array_equal(cosine[1:], cosine[:0:-1]) and np.array_equal(cosine[:half], -cosine[half : 2 * half])


def dft_tables(tables: IntegerTables, num_samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and negative sines of the first samples (all of a frame) and every bin, float64 (samples, N / 2 + 1)."""
    places = np.arange(tables.frame_length if num_samples is None else num_samples)
    turns = np.outer(places, np.arange(tables.fft_length // 2 + 1)) % tables.fft_length
    quarter = tables.fft_length // 4 if tables.fft_length % 4 == 0 else None
    if quarter is None:
        raise ValueError(f"`fft_length` must be a multiple of 4 for a front end in integers, got {tables.fft_length}.")
    sine = tables.cosine[(turns - quarter) % tables.fft_length]
    return tables.cosine[turns].astype(np.float64), -sine.astype(np.float64)


def filter_matrix(tables: IntegerTables) -> np.ndarray:
    """Weights of every bin and filter, float64 (fft_length // 2 + 1, M)."""
    matrix = np.zeros((tables.fft_length // 2 + 1, len(tables.filter_start)))
    done = 0
    for place, (start, length) in enumerate(zip(tables.filter_start, tables.filter_length, strict=True)):
        matrix[start : start + length, place] = tables.filter_weight[done : done + length]
        done += length
    return matrix


def integer_codes(frames: np.ndarray, tables: IntegerTables, *, steps: dict[str, Any] | None = None) -> np.ndarray:
    """The definition, in numpy.

    Args:
        frames: int16 (T, frame_length).
        tables: of the front end.
        steps: if given, every intermediate result is put in here, as int64 (T, ...).

    Returns:
        int8 (T, F).
    """
    x = frames.astype(np.int64) << SAMPLE_BITS
    if tables.remove_dc:
        total = x.sum(axis=1, keepdims=True)
        x = x - (2 * total + tables.frame_length) // (2 * tables.frame_length)
    before = np.concatenate([x[:, :1], x[:, :-1]], axis=1)
    emphasised = _rounded_shift((x << WINDOW_BITS) - tables.preemphasis * before, WINDOW_BITS)
    windowed = _rounded_shift(emphasised * tables.window, WINDOW_BITS)
    cosine, sine = dft_tables(tables)
    real, imaginary = ((windowed.astype(np.float64) @ table).astype(np.int64) for table in (cosine, sine))
    real, imaginary = (_rounded_shift(part, tables.twiddle_bits) for part in (real, imaginary))
    power = _rounded_shift(real * real + imaginary * imaginary, POWER_SHIFT)
    energy = np.empty((len(frames), len(tables.filter_start)), dtype=np.int64)
    done = 0
    for place, (start, length) in enumerate(zip(tables.filter_start, tables.filter_length, strict=True)):
        weights = tables.filter_weight[done : done + length].astype(np.int64)
        energy[:, place] = (power[:, start : start + length] * weights).sum(axis=1)
        done += length
    log = _log2(energy, tables)
    codes = np.clip(
        _rounded_shift(log @ tables.multiplier + tables.offset, tables.shift), tables.code_min, tables.code_max
    )
    if steps is not None:
        steps |= {"windowed": windowed, "real": real, "imaginary": imaginary}
        steps |= {"power": power, "energy": energy, "log2": log}
    return codes.astype(np.int8)


def _rounded_shift(x: np.ndarray, bits: int) -> np.ndarray:
    return (x + (1 << (bits - 1))) >> bits


def _log2(energy: np.ndarray, tables: IntegerTables) -> np.ndarray:
    """log2 with 20 fraction bits of integers from 0 to 2^63 - 1."""
    top = np.frexp(np.maximum(energy, 1).astype(np.float64))[1].astype(np.int64) - 1
    top -= (np.int64(1) << top) > np.maximum(energy, 1)  # float64 may have rounded up to the next power of two
    drop = top - 23
    mantissa = np.where(drop >= 0, energy >> np.maximum(drop, 0), energy << np.maximum(-drop, 0)) - (1 << 23)
    place, rest = mantissa >> 15, mantissa & 0x7FFF
    place = np.where(energy > 0, place, 0)
    low = tables.log_table[place].astype(np.int64)
    high = tables.log_table[place + 1].astype(np.int64)
    log = (top << LOG_BITS) + low + (((high - low) * rest) >> 15)
    return np.where(energy > 0, log, tables.zero_energy_log)


class FoldedTransform:
    """The product with `dft_tables` in a third of the work and the same integers.

    A cosine is the same at samples n and N - n, a sine its negative; at n and N / 2 - n they are so up to the sign
    (-1)^bin. So samples are added and subtracted first, and four products of a quarter of the size remain: real and
    imaginary parts of even bins, and of odd ones.

    Args:
        tables: of the front end.

    Raises:
        ValueError: a cosine without these symmetries, or an `fft_length` that is no multiple of 4.
    """

    def __init__(self, tables: IntegerTables) -> None:
        self._frame_length, self._quarter = tables.frame_length, tables.fft_length // 4
        cosine, sine = (part * 2.0**-tables.twiddle_bits for part in dft_tables(tables, self._quarter + 1))
        if not is_symmetric(tables.cosine):
            raise ValueError("front end: `cosine` must be the same backwards, and its negative half a turn on.")
        parts = (cosine[:, ::2], sine[1:-1, ::2], cosine[:-1, 1::2], sine[1:, 1::2])
        self._matrices = [np.ascontiguousarray(part) for part in parts]

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """Windowed samples (T, frame_length), float64 -> real and imaginary parts of even bins, then of odd ones."""
        quarter, half = self._quarter, 2 * self._quarter
        whole = np.zeros((len(x), 2 * half))
        whole[:, : self._frame_length] = x
        sums = whole[:, : half + 1].copy()  # samples 0 to N / 2
        sums[:, 1:half] += whole[:, :half:-1]
        differences = whole[:, 1:half] - whole[:, :half:-1]  # samples 1 to N / 2 - 1; the others have no sine
        even_cosine, odd_sine = sums[:, : quarter + 1].copy(), differences[:, :quarter].copy()
        even_cosine[:, :quarter] += sums[:, half:quarter:-1]
        odd_sine[:, : quarter - 1] += differences[:, : quarter - 1 : -1]
        odd_cosine = sums[:, :quarter] - sums[:, half:quarter:-1]
        even_sine = differences[:, : quarter - 1] - differences[:, : quarter - 1 : -1]
        folded = (even_cosine, even_sine, odd_cosine, odd_sine)
        return [part @ matrix for part, matrix in zip(folded, self._matrices, strict=True)]


class IntegerFrontEnd:
    """`integer_codes` at speed: the same integers, most of them in float64, where sums below 2^53 are exact.

    Shifts are products with powers of two, most of them in the tables. Where a block is so loud that a sum may pass
    2^53, that step is done in int64 or in two halves.

    Args:
        tables: of the front end.
    """

    def __init__(self, tables: IntegerTables) -> None:
        self.tables = tables
        self._preemphasis = tables.preemphasis * 2.0**-WINDOW_BITS
        self._window = tables.window * 2.0**-WINDOW_BITS
        self._transform = FoldedTransform(tables)
        filters = filter_matrix(tables)
        self._filters = np.concatenate([filters[::2], filters[1::2]])  # even bins first, as the transform gives them
        self._most_power = _EXACT / max(1.0, self._filters.sum(axis=0).max())
        self._log_table = tables.log_table.astype(np.int64)
        diagonal = np.diag(np.diagonal(tables.multiplier))
        self._diagonal = np.diagonal(tables.multiplier) if np.array_equal(tables.multiplier, diagonal) else None

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """float waveform (N,) in [-1, 1] -> int8 codes (T, F) of the frames that lie wholly inside."""
        samples = np.clip(np.rint(waveform.astype(np.float32) * np.float32(INT16_SCALE)), -32768, 32767)
        if len(samples) < self.tables.frame_length:
            return np.zeros((0, len(self.tables.offset)), dtype=np.int8)
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.tables.frame_length)[:: self.tables.hop_length]
        blocks = [frames[start : start + _BLOCK_FRAMES] for start in range(0, len(frames), _BLOCK_FRAMES)]
        return np.concatenate([self._codes(block) for block in blocks])

    def _codes(self, frames: np.ndarray) -> np.ndarray:
        """Whole samples (T, frame_length) of any type -> int8 (T, F)."""
        tables = self.tables
        parts = self._transform(self._windowed(frames))
        power = np.concatenate([_power(*parts[:2]), _power(*parts[2:])], axis=1)
        if power.max() < self._most_power:
            energy = (power @ self._filters).astype(np.int64)
        else:
            high = np.floor(power * 2.0**-24)
            low = power - high * 2.0**24
            energy = ((high @ self._filters).astype(np.int64) << 24) + (low @ self._filters).astype(np.int64)
        log = self._log2(energy)
        features = log @ tables.multiplier if self._diagonal is None else log * self._diagonal
        codes = np.clip(_rounded_shift(features + tables.offset, tables.shift), tables.code_min, tables.code_max)
        return codes.astype(np.int8)

    def _windowed(self, frames: np.ndarray) -> np.ndarray:
        tables = self.tables
        x = np.multiply(frames, float(1 << SAMPLE_BITS), dtype=np.float64)
        if tables.remove_dc:
            x -= np.floor((2 * x.sum(axis=1, keepdims=True) + tables.frame_length) / (2 * tables.frame_length))
        before = x * self._preemphasis
        x[:, 1:] -= before[:, :-1]
        x[:, 0] -= before[:, 0]
        _rounded(x)
        x *= self._window
        return _rounded(x)

    def _log2(self, energy: np.ndarray) -> np.ndarray:
        """`_log2`, which of a number needs its leading 24 bits: they are those of a float64."""
        if energy.max() >= 1 << 53:  # whose last bits must not round the leading ones
            energy = np.where(energy >= 1 << 53, energy & ~np.int64(2047), energy)
        bits = energy.astype(np.float64).view(np.uint64)
        top = (bits >> 52).astype(np.int64) - 1023
        place = ((bits >> 44) & 0xFF).astype(np.int64)
        rest = ((bits >> 29) & 0x7FFF).astype(np.int64)
        low = self._log_table[place]
        rise = self._log_table[place + 1] - low
        log = (top << LOG_BITS) + low + ((rise * rest) >> 15)
        return np.where(energy > 0, log, self.tables.zero_energy_log)


def _rounded(x: np.ndarray) -> np.ndarray:
    """floor(x + 1/2), in place."""
    x += 0.5
    return np.floor(x, out=x)


def _power(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """Both (T, bins), before rounding -> (T, bins); overwrites them."""
    parts = _rounded(real), _rounded(imaginary)
    if max(max(part.max(), -part.min()) for part in parts) >= 2.0**25.5:
        whole = np.square(real.astype(np.int64)) + np.square(imaginary.astype(np.int64))
        return _rounded_shift(whole, POWER_SHIFT).astype(np.float64)
    power = np.square(real, out=real)
    power += np.square(imaginary, out=imaginary)
    power *= 2.0**-POWER_SHIFT
    return _rounded(power)
