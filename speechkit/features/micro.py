"""MicroMFB: the fixed-point log mel front end of TensorFlow Lite Micro ("microfrontend"), value for value.

Waveform (B, N) in [-1, 1] -> (B, T, num_mels): int16 samples -> window -> FFT -> filter bank -> square root -> noise
reduction -> per-channel gain control (PCAN) -> log. Every stage is the integer arithmetic of a device, so a model
trained on these features sees the same numbers there. Sources: tensorflow/lite/experimental/microfrontend/lib and
kissfft's 16-bit transform, as the package pymicro-features 2.0.2 builds them: its tables are made in float32, those
of TensorFlow itself in float64, which moves a window coefficient and some filter weights by 1/4096. Gain control is
described in Wang et al. 2017, "Trainable frontend for robust and far-field keyword spotting".
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from speechkit.features.framing import count_frames, frame_samples

OUTPUT_SCALE = 0.0390625  # 10 / 256: what pymicro-features multiplies the integers by; exact in float32
_BLOCK_FRAMES = 256  # frames analysed at a time: they stay in the cache
_WINDOW_BITS = 12
_FILTER_BITS = 12
_NOISE_BITS = 14
_SNR_BITS = 12
_GAINED_BITS = 6
_LOG_BITS = 16
_SEGMENT_BITS = 7
_LN2 = round(math.log(2.0) * (1 << _LOG_BITS))
_INT16_MAX = 0x7FFF
_UINT16_MAX = 0xFFFF
_UINT32_MAX = 0xFFFFFFFF


class MicroMFB(nn.Module):
    """Log mel filter bank of TensorFlow Lite Micro in fixed point.

    With the defaults, equal to the package pymicro-features. Computed with numpy on the CPU: no gradient passes, and
    the module is not for tracing or export.

    Args:
        sample_rate_hz: rate of the waveform.
        num_mels: number of mel channels.
        frame_seconds: length of a frame.
        hop_seconds: distance between frames, at most a frame.
        low_hz: lower edge of the first filter.
        high_hz: upper edge of the last filter, below the Nyquist frequency.
        smoothing_bits: fractional bits of the noise estimate.
        even_smoothing: share of a new frame in the noise estimate of even channels.
        odd_smoothing: the same for odd channels.
        min_signal_remaining: share of the signal that noise reduction leaves at least.
        enable_pcan: whether gain control is applied.
        pcan_strength: exponent of gain control; 0 is none, 1 full.
        pcan_offset: what is added to the noise estimate before the exponent.
        gain_bits: fractional bits of the gain.
        enable_log: whether the logarithm is taken.
        scale_shift: the log is multiplied by 2 to this power.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int = 16000,
        num_mels: int = 40,
        frame_seconds: float = 0.030,
        hop_seconds: float = 0.010,
        low_hz: float = 125.0,
        high_hz: float = 7500.0,
        smoothing_bits: int = 10,
        even_smoothing: float = 0.025,
        odd_smoothing: float = 0.06,
        min_signal_remaining: float = 0.05,
        enable_pcan: bool = True,
        pcan_strength: float = 0.95,
        pcan_offset: float = 80.0,
        gain_bits: int = 21,
        enable_log: bool = True,
        scale_shift: int = 6,
    ) -> None:
        super().__init__()
        if sample_rate_hz <= 0:
            raise ValueError(f"`sample_rate_hz` must be positive, got {sample_rate_hz}.")
        if num_mels <= 0:
            raise ValueError(f"`num_mels` must be positive, got {num_mels}.")
        if not 0 <= low_hz < high_hz < sample_rate_hz / 2:
            raise ValueError(f"`low_hz` must lie below `high_hz` below the Nyquist frequency, got {low_hz}, {high_hz}.")
        shares = {
            "even_smoothing": even_smoothing,
            "odd_smoothing": odd_smoothing,
            "min_signal_remaining": min_signal_remaining,
        }
        for name, share in shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"`{name}` must lie in [0, 1], got {share}.")
        if pcan_strength < 0.0:
            raise ValueError(f"`pcan_strength` must not be negative, got {pcan_strength}.")
        if pcan_offset <= 0.0:
            raise ValueError(f"`pcan_offset` must be positive, got {pcan_offset}.")
        if not 0 <= scale_shift <= 31:
            raise ValueError(f"`scale_shift` must lie in [0, 31], got {scale_shift}.")
        self.sample_rate_hz, self.num_mels = sample_rate_hz, num_mels
        self.frame_seconds, self.hop_seconds = frame_seconds, hop_seconds
        self.low_hz, self.high_hz = low_hz, high_hz
        self.smoothing_bits, self.even_smoothing, self.odd_smoothing = smoothing_bits, even_smoothing, odd_smoothing
        self.min_signal_remaining = min_signal_remaining
        self.enable_pcan, self.pcan_strength, self.pcan_offset = enable_pcan, pcan_strength, pcan_offset
        self.gain_bits, self.enable_log, self.scale_shift = gain_bits, enable_log, scale_shift

        self.frame_length = frame_samples(frame_seconds, sample_rate_hz)
        self.hop_length = frame_samples(hop_seconds, sample_rate_hz)
        if not 1 <= self.hop_length <= self.frame_length or self.frame_length < 3:
            raise ValueError(
                "`hop_seconds` must hold a sample and be at most `frame_seconds` of 3 samples or more, "
                f"got {hop_seconds}, {frame_seconds}."
            )
        self.fft_length = 1 << (self.frame_length - 1).bit_length()
        # The scale of the spectrum (the FFT divides by its length) and of the filters' square root, undone at the end.
        self.correction_bits = self.fft_length.bit_length() - 1 - _FILTER_BITS // 2
        if not max(0, self.correction_bits) <= smoothing_bits <= 31:
            raise ValueError(
                f"`smoothing_bits` must lie in [{max(0, self.correction_bits)}, 31], got {smoothing_bits}."
            )
        self.snr_shift = gain_bits - self.correction_bits - _SNR_BITS
        if self.snr_shift < 0 or gain_bits > 31:
            raise ValueError(f"`gain_bits` must lie in [{self.correction_bits + _SNR_BITS}, 31], got {gain_bits}.")
        self._window = window_coefficients(self.frame_length)
        self._bins, self._filters = filter_weights(num_mels, self.fft_length, sample_rate_hz, low_hz, high_hz)
        channel_smoothing = np.where(np.arange(num_mels) % 2 == 0, even_smoothing, odd_smoothing)
        self._smoothing = noise_share(channel_smoothing)
        self._remaining = noise_share(np.array(min_signal_remaining))
        self._gains = gain_table(smoothing_bits - self.correction_bits, pcan_strength, pcan_offset, gain_bits)
        self._segments = log_segments()

    @property
    def num_features(self) -> int:
        return self.num_mels

    def output_lengths(self, num_samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames: those that lie wholly inside the waveform."""
        return count_frames(num_samples, self.frame_length, self.hop_length)

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> (B, T, num_mels) in float32, frames (B,).

        Samples are rounded to 16 bits (halves to even). The values are `integers` times 0.0390625, as
        pymicro-features returns them: with the log, its natural logarithm times 2.5, in steps of 0.0390625. Each
        utterance starts with no noise estimate. Frames beyond an utterance's end are zero. No gradient passes.
        """
        frame_counts = self.output_lengths(lengths)
        num_frames = max(0, (waveform.shape[1] - self.frame_length) // self.hop_length + 1)
        samples = (waveform.float().cpu() * 32768.0).round().clamp(-32768.0, 32767.0).to(torch.int16).numpy()
        features = np.zeros((len(samples), num_frames, self.num_mels), dtype=np.float32)
        for row, utterance, length in zip(features, samples, lengths.tolist(), strict=True):
            values = self.integers(utterance[:length])
            row[: len(values)] = values * np.float32(OUTPUT_SCALE)
        return torch.from_numpy(features).to(waveform.device), frame_counts

    def integers(self, samples: np.ndarray) -> np.ndarray:
        """int16 samples (N,) -> uint16 values (T, num_mels): the definition, in integers alone (frontend.c).

        Raises:
            ValueError: samples that are not one row of int16.
        """
        if samples.dtype != np.int16 or samples.ndim != 1:
            raise ValueError(f"`samples` must be int16 of shape (N,), got {samples.dtype} of shape {samples.shape}.")
        if len(samples) < self.frame_length:
            return np.zeros((0, self.num_mels), dtype=np.uint16)
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.frame_length)[:: self.hop_length]
        values = np.empty((len(frames), self.num_mels), dtype=np.uint16)
        noise = np.zeros((1, self.num_mels), dtype=np.int64)
        for start in range(0, len(frames), _BLOCK_FRAMES):
            block = frames[start : start + _BLOCK_FRAMES]
            signal = self.mel_amplitudes(block)
            signal, noise = self.reduce_noise(signal, noise[-1])
            if self.enable_pcan:
                signal = self.control_gain(signal, noise)
            if self.enable_log:
                signal = self.log_scale(signal)
            values[start : start + len(block)] = np.minimum(signal, _UINT16_MAX)
        return values

    def mel_amplitudes(self, frames: np.ndarray) -> np.ndarray:
        """Raw frames (T, frame_length) in int16 -> square roots of mel energies (T, num_mels) in int64."""
        windowed, shift = self.apply_window(frames)
        spectrum = real_fft(windowed)[:, self._bins].astype(np.float64)
        energy = np.square(spectrum, out=spectrum).sum(axis=0)
        # filterbank.c sums in uint64. Whole numbers below 2**53 are exact in float64, whose products are faster.
        roots: np.ndarray = rounded_root(energy.T @ self._filters) >> shift[:, None]
        return roots

    def apply_window(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames (T, frame_length) -> windowed, shifted to full scale, padded (fft_length, T), shifts (T,) (window.c).

        -32768 has no absolute value in int16: it does not count as loud, and any shift turns it to zero (fft.cc).
        """
        windowed = np.zeros((self.fft_length, len(frames)), dtype=np.int16)
        product = np.multiply(frames.T, self._window[:, None], dtype=np.int32, order="C")
        windowed[: self.frame_length] = product >> _WINDOW_BITS
        shift = 15 - bit_length(np.abs(windowed).max(axis=0, initial=0))
        return windowed << shift.astype(np.int16), shift

    def reduce_noise(self, signal: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes the slowly moving part of each channel away (noise_reduction.c).

        Args:
            signal: (T, num_mels).
            noise: estimate before the first frame (num_mels,).

        Returns:
            What remains (T, num_mels), estimate after each frame (T, num_mels) with `smoothing_bits` more.
        """
        scaled = (signal << self.smoothing_bits) & _UINT32_MAX
        estimates = scaled * self._smoothing
        keep = (1 << _NOISE_BITS) - self._smoothing
        for estimate in estimates:  # the only stage whose frames depend on each other
            estimate += noise * keep
            estimate >>= _NOISE_BITS
            noise = estimate
        remaining = (scaled - np.minimum(estimates, scaled)) >> self.smoothing_bits
        floor = (signal * self._remaining) >> _NOISE_BITS
        return np.maximum(remaining, floor), estimates

    def control_gain(self, signal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Multiplies by a falling power of the noise and compresses small values (pcan_gain_control.c): (T, num_mels).

        The power is a table of parabolas, one an octave of the noise.
        """
        octave = bit_length(noise)
        place = ((noise << np.maximum(11 - octave, 0)) >> np.maximum(octave - 11, 0)) & 0x3FF
        base, slope, curve = self._gains[:, octave]
        rise = (((curve * place) >> 5) + (slope << 5)) * place
        gain = (base + ((rise + (1 << 14)) >> 15)).astype(np.int16).astype(np.int64) & _UINT32_MAX
        snr = ((signal * gain) >> self.snr_shift) & _UINT32_MAX
        small = (snr * snr) >> (2 + 2 * _SNR_BITS - _GAINED_BITS)
        large = (snr >> (_SNR_BITS - _GAINED_BITS)) - (1 << _GAINED_BITS)
        shrunk: np.ndarray = np.where(snr < 2 << _SNR_BITS, small, large)
        return shrunk

    def log_scale(self, signal: np.ndarray) -> np.ndarray:
        """Natural logarithm times 2 to the power `scale_shift`, 0 where it would not be positive (log_scale.c)."""
        up, down = max(self.correction_bits, 0), max(-self.correction_bits, 0)
        value = np.maximum(((signal << up) & _UINT32_MAX) >> down, 1)
        whole = bit_length(value) - 1
        rest = value - (1 << whole)
        fraction = (rest << np.maximum(_LOG_BITS - whole, 0)) >> np.maximum(whole - _LOG_BITS, 0)
        segment = fraction >> (_LOG_BITS - _SEGMENT_BITS)
        before, after = self._segments[segment], self._segments[segment + 1]
        offset = fraction - (segment << (_LOG_BITS - _SEGMENT_BITS))
        log2 = (whole << _LOG_BITS) + fraction + before + (((after - before) * offset) >> _LOG_BITS)
        half = 1 << (_LOG_BITS - 1)
        natural = (_LN2 * log2 + half) >> _LOG_BITS
        scaled: np.ndarray = ((((natural << self.scale_shift) & _UINT32_MAX) + half) & _UINT32_MAX) >> _LOG_BITS
        return scaled


def bit_length(x: np.ndarray) -> np.ndarray:
    """Bits that a whole number needs: 0 -> 0, 1 -> 1, 2 -> 2, 4 -> 3; any shape, below 2**53."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)


def rounded_root(x: np.ndarray) -> np.ndarray:
    """Square root of whole numbers below 2**52, rounded to the nearest integer (filterbank.c, Sqrt32 and Sqrt64).

    Numbers below 2**32 take the way of 16-bit results, which cannot be rounded up to 65536.
    """
    root = np.floor(np.sqrt(x))
    stuck = (root == _UINT16_MAX) & (x <= _UINT32_MAX)
    rounded: np.ndarray = root + ((x - root * root > root) & ~stuck)
    return rounded.astype(np.int64)


def real_fft(frames: np.ndarray) -> np.ndarray:
    """Spectrum of real int16 frames (N, T), N a power of two, divided by N (kissfft, tools/kiss_fftr.c).

    Frames stand in the last dimension so that all arithmetic runs over contiguous memory.

    Returns:
        (2, N / 2 + 1, T): real and imaginary part. The first and the last bin stay zero: no filter uses them.
    """
    length, num_frames = frames.shape
    half, quarter = length // 2, length // 4
    packed = np.ascontiguousarray(frames.reshape(half, 2, num_frames).swapaxes(0, 1))
    packed = complex_fft(packed)
    ahead = packed[:, 1 : quarter + 1]
    behind = packed[:, : quarter - 1 : -1].copy()
    np.negative(behind[1], out=behind[1])
    ahead, behind = divided(ahead, 2), divided(behind, 2)
    even, odd = ahead + behind, ahead - behind
    turned = multiplied(odd, twiddles(-math.pi * (np.arange(1, quarter + 1) / half + 0.5))).astype(np.int16)
    spectrum = np.zeros((2, half + 1, num_frames), dtype=np.int32)
    spectrum[:, 1 : quarter + 1] = (even + turned) >> 1
    spectrum[0, half - 1 : quarter - 1 : -1] = (even[0] - turned[0]) >> 1
    spectrum[1, half - 1 : quarter - 1 : -1] = (turned[1] - even[1]) >> 1
    return spectrum


def complex_fft(x: np.ndarray) -> np.ndarray:
    """Fixed-point FFT by decimation in time, radix 4 and at last 2, divided by its length (kissfft, kiss_fft.c).

    Args:
        x: (2, N, T) in int16, real and imaginary part; N a power of two.

    Returns:
        (2, N, T) in int16; sums beyond 16 bits wrap around.
    """
    _, length, width = x.shape
    if length == 1:
        return x
    radix = 4 if length % 4 == 0 else 2
    size = length // radix
    parts = complex_fft(x.reshape(2, size, radix * width)).reshape(2, size, radix, width)
    scaled = divided(parts, radix)
    steps = np.arange(size)[:, None] * np.arange(1, radix)
    rest = multiplied(scaled[:, :, 1:], twiddles(-2.0 * math.pi * steps / length))
    result = np.empty((2, radix, size, width), dtype=np.int16)
    first = scaled[:, :, 0]
    if radix == 2:
        result[:, 0], result[:, 1] = first + rest[:, :, 0], first - rest[:, :, 0]
    else:
        plus, minus = first + rest[:, :, 1], first - rest[:, :, 1]
        both, apart = rest[:, :, 0] + rest[:, :, 2], rest[:, :, 0] - rest[:, :, 2]
        result[:, 0], result[:, 2] = plus + both, plus - both
        result[0, 1], result[1, 1] = minus[0] + apart[1], minus[1] - apart[0]
        result[0, 3], result[1, 3] = minus[0] - apart[1], minus[1] + apart[0]
    return result.reshape(2, length, width)


def twiddles(phase: np.ndarray) -> np.ndarray:
    """exp(i phase) (...) -> (2, ..., 1) in 15 fractional bits (kissfft, _kiss_fft_guts.h)."""
    return np.floor(0.5 + _INT16_MAX * np.stack([np.cos(phase), np.sin(phase)])).astype(np.int32)[..., None]


def divided(x: np.ndarray, divisor: int) -> np.ndarray:
    """int16 of any shape times (32767 // divisor) / 32768, rounded, in int32 (kissfft, C_FIXDIV)."""
    return rounded_product(np.multiply(x, _INT16_MAX // divisor, dtype=np.int32))


def multiplied(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Complex product of (2, ...) in int32 with twiddles, rounded (kissfft, C_MUL)."""
    real = x[0] * factor[0] - x[1] * factor[1]
    imaginary = x[0] * factor[1] + x[1] * factor[0]
    return np.stack([rounded_product(real), rounded_product(imaginary)])


def rounded_product(x: np.ndarray) -> np.ndarray:
    """Takes 15 fractional bits off, in place (kissfft, sround)."""
    x += 1 << 14
    x >>= 15
    return x


def window_coefficients(length: int) -> np.ndarray:
    """Hann window at half samples, 12 fractional bits (window_util.c): (length,) in int32."""
    step = np.float32(math.pi) * np.float32(2.0) / np.float32(length)
    phase = step * (np.arange(length, dtype=np.float32) + np.float32(0.5))
    cosine = np.cos(phase.astype(np.float64)).astype(np.float32)
    return quantized(np.float32(0.5) - np.float32(0.5) * cosine, _WINDOW_BITS).astype(np.int32)


def filter_weights(
    num_mels: int, fft_length: int, sample_rate_hz: int, low_hz: float, high_hz: float
) -> tuple[slice, np.ndarray]:
    """Triangular mel filters, 12 fractional bits (filterbank_util.c).

    Between two centres a bin gives one share to the channel that rises and the other to the channel that falls.

    Returns:
        The bins that are used, weights (bins, num_mels): whole numbers in float64.
    """
    hz_per_bin = np.float32(0.5) * np.float32(sample_rate_hz) / np.float32(fft_length // 2)
    low, high = mel(np.array([low_hz, high_hz], dtype=np.float32))
    spacing = (high - low) / np.float32(num_mels + 1)
    centres = low + spacing * np.arange(1, num_mels + 2, dtype=np.float32)
    first = int(np.float32(1.5) + np.float32(low_hz) / hz_per_bin)  # never the constant part
    mels = mel(np.arange(fft_length // 2 + 1, dtype=np.float32) * hz_per_bin)
    last = max(first, int(np.searchsorted(mels, centres[-1], side="right")))
    if last > fft_length // 2:
        raise ValueError(f"`high_hz` must leave a bin below the Nyquist frequency, got {high_hz}.")
    bins = np.arange(first, last)
    band = np.searchsorted(centres, mels[bins])
    below = np.concatenate([[low], centres])[band]
    share = (centres[band] - mels[bins]) / (centres[band] - below)
    weights = np.zeros((len(bins), num_mels + 2))
    rows = np.arange(len(bins))
    weights[rows, band] = quantized(share, _FILTER_BITS)
    weights[rows, band + 1] = quantized(np.float32(1.0) - share, _FILTER_BITS)
    return slice(first, last), weights[:, 1:-1].copy()


def quantized(x: np.ndarray, bits: int) -> np.ndarray:
    """float32 -> whole numbers: times 2 to the power `bits`, rounded."""
    rounded: np.ndarray = np.floor(x * np.float32(1 << bits) + np.float32(0.5))
    return rounded


def mel(hz: np.ndarray) -> np.ndarray:
    """Mel scale in float32, any shape (filterbank_util.c)."""
    return np.float32(1127.0) * log1p(hz / np.float32(700.0))


def log1p(x: np.ndarray) -> np.ndarray:
    """log(1 + x) of float32 x >= 0 as fdlibm rounds it (s_log1pf.c: newlib on devices, glibc up to 2.40).

    Some weights of the filters hang on its last bit, and numpy's own log1p differs from machine to machine.
    """
    total = np.float32(1.0) + x
    mantissa, exponent = np.frexp(total)
    upper = 2 * mantissa >= np.float32(1.4142141)  # mantissa to [sqrt(1/2), sqrt(2))
    octave = (exponent - 1 + upper).astype(np.float32)
    lost = np.where(exponent > 1, np.float32(1.0) - (total - x), x - (total - np.float32(1.0))) / total
    lost = np.where(octave == 0, np.float32(0.0), lost)
    f = np.where(octave == 0, x, np.where(upper, mantissa, 2 * mantissa) - np.float32(1.0))
    s = f / (np.float32(2.0) + f)
    z = s * s
    series = np.zeros_like(z)
    for coefficient in (0.14798199, 0.15313838, 0.18183573, 0.22222199, 0.2857143, 0.4, 0.6666667):
        series = z * (np.float32(coefficient) + series)
    square = np.float32(0.5) * f * f
    small = octave * np.float32(9.0580006e-06) + lost
    return octave * np.float32(0.69313812) - ((square - (s * (square + series) + small)) - f)


def noise_share(share: np.ndarray) -> np.ndarray:
    """Shares in [0, 1] -> int64 with 14 fractional bits, cut off (noise_reduction_util.c)."""
    return (share.astype(np.float32) * np.float32(1 << _NOISE_BITS)).astype(np.int64)


def gain_table(input_bits: int, strength: float, offset: float, gain_bits: int) -> np.ndarray:
    """Parabolas through (noise + offset) ** -strength at both ends and the middle of each octave of the noise.

    Source: pcan_gain_control_util.c. `input_bits` are the fractional bits of the noise.

    Returns:
        (3, 33) in int64: value at the start, slope and curvature for numbers of 0 to 32 bits.
    """

    def gain(noise: int) -> int:
        base = np.float32(noise) / np.float32(1 << input_bits) + np.float32(offset)
        power = np.float32(float(base) ** -float(np.float32(strength)))
        value = np.float32(1 << gain_bits) * power
        return _INT16_MAX if value > _INT16_MAX else int(value + np.float32(0.5))

    table = np.zeros((3, 33), dtype=np.int64)
    table[0, 0], table[0, 1] = gain(0), gain(1)
    for bits in range(2, 33):
        start = 1 << (bits - 1)
        first, middle, last = gain(start), gain(start + start // 2), gain(min(2 * start, _UINT32_MAX))
        slope = 4 * (middle - first) - (last - first)
        table[:, bits] = first, slope, last - first - slope
    return table.astype(np.int16).astype(np.int64)


def log_segments() -> np.ndarray:
    """What log2(1 + x) has over x at 128 steps in [0, 1], 16 fractional bits (log_lut.c): (129,) in int64."""
    x = np.arange((1 << _SEGMENT_BITS) + 1) / (1 << _SEGMENT_BITS)
    return np.round((np.log2(1.0 + x) - x) * (1 << _LOG_BITS)).astype(np.int64)
