"""From one quantized domain to another by integers alone, as a device without floating point does it.

The ratio of two scales becomes an integer mantissa and a shift (Jacob et al. 2018, arXiv 1712.05877, section 2.2).
"single" rounds the exact product once. "double" rounds twice, bit for bit as gemmlowp's fixedpoint.h and TensorFlow
Lite's default build. Where a factor below 1/2 needs a right shift by r bits, the first rounding makes ties of its own,
and 2^-(r + 1) of the products differ by one: 6 % for r = 3, 0.2 % for r = 8. Larger factors give the same both ways.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from speechkit.quantization.qparams import QParams, along_axis

ROUNDINGS = ("single", "double")
INT32 = torch.iinfo(torch.int32)


@dataclass(frozen=True)
class FixedPointMultiplier:
    """The real factor mantissa * 2^(shift - 31).

    Args:
        mantissa: in [2^30, 2^31).
        shift: in [-31, 30]; above zero for factors of 1 and more.

    Raises:
        ValueError: an argument out of its range.
    """

    mantissa: int
    shift: int

    def __post_init__(self) -> None:
        if not 1 << 30 <= self.mantissa < 1 << 31:
            raise ValueError(f"`mantissa` must lie in [2^30, 2^31), got {self.mantissa}.")
        if not -31 <= self.shift <= 30:
            raise ValueError(f"`shift` must lie in [-31, 30], got {self.shift}.")

    @classmethod
    def from_real(cls, real: float) -> "FixedPointMultiplier":
        """The nearest one, to a relative 2^-31 (TensorFlow Lite's QuantizeMultiplier, which takes tiny factors for 0).

        Raises:
            ValueError: `real` is not in [2^-32, 2^30).
        """
        if not 2.0**-32 <= real < 2.0**30:
            raise ValueError(f"`real` must lie in [2^-32, 2^30), got {real}.")
        fraction, shift = math.frexp(real)
        mantissa = math.floor(math.ldexp(fraction, 31) + 0.5)
        return cls(mantissa >> 1, shift + 1) if mantissa == 1 << 31 else cls(mantissa, shift)

    @property
    def real(self) -> float:
        return math.ldexp(self.mantissa, self.shift - 31)


def multiply_fixed_point(
    accumulator: Tensor | np.ndarray,
    multiplier: FixedPointMultiplier | Sequence[FixedPointMultiplier],
    *,
    rounding: str = "single",
    axis: int | None = None,
) -> Tensor:
    """Integers of any shape times a real factor, rounded to integers (int64).

    "single": the nearest integer to the exact product, ties towards plus infinity (TensorFlow Lite's
    TFLITE_SINGLE_ROUNDING). "double": SaturatingRoundingDoublingHighMul, ties towards plus infinity, then
    RoundingDivideByPOT, ties away from zero; a left shift comes first and saturates at 32 bits
    (SaturatingRoundingMultiplyByPOT).

    Args:
        accumulator: integers in the range of int32, whatever their type.
        multiplier: one, or with `axis` one for each channel.
        rounding: "single" or "double".
        axis: where the channels lie.

    Raises:
        ValueError: an unknown rounding, values that are no 32-bit integers, or multipliers that do not fit `axis`.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"`rounding` must be one of {', '.join(ROUNDINGS)}, got {rounding!r}.")
    if isinstance(multiplier, FixedPointMultiplier) != (axis is None):
        raise ValueError(f"`axis` must be given with a sequence of multipliers and only there, got {axis}.")
    values = _int64(torch.as_tensor(accumulator))
    each = [multiplier] if isinstance(multiplier, FixedPointMultiplier) else multiplier
    mantissa = torch.tensor([one.mantissa for one in each], dtype=torch.int64, device=values.device)
    shift = torch.tensor([one.shift for one in each], dtype=torch.int64, device=values.device)
    if axis is not None:
        mantissa, shift = along_axis(mantissa, axis, values), along_axis(shift, axis, values)
    else:
        mantissa, shift = mantissa[0], shift[0]
    if rounding == "single":
        right = 31 - shift
        return (values * mantissa + (1 << (right - 1))) >> right
    shifted = (values << shift.clamp(min=0)).clamp(INT32.min, INT32.max)
    return _rounding_divide_by_pot(_doubling_high_mul(shifted, mantissa), (-shift).clamp(min=0))


def requantize(
    accumulator: Tensor | np.ndarray,
    multiplier: FixedPointMultiplier | Sequence[FixedPointMultiplier],
    zero_point: int,
    dtype: str = "int8",
    *,
    rounding: str = "single",
    axis: int | None = None,
) -> Tensor:
    """Integers above their zero point -> codes of another domain: clamp(accumulator * multiplier + zero_point).

    From (S1, Z1) to (S2, Z2): `accumulator` q - Z1, `multiplier` S1 / S2, `zero_point` Z2. For a sum of products of
    inputs and weights: that sum with its bias, S_input * S_weight / S_output.

    Args:
        accumulator: integers in the range of int32, any shape.
        multiplier: one, or with `axis` one for each channel.
        zero_point: of the new domain.
        dtype: of the new domain, "int8", "uint8" or "int16".
        rounding: see `multiply_fixed_point`.
        axis: where the channels lie.

    Raises:
        ValueError: an argument out of its range.
    """
    target = QParams(1.0, zero_point, dtype)
    codes = multiply_fixed_point(accumulator, multiplier, rounding=rounding, axis=axis) + zero_point
    return codes.clamp(target.quant_min, target.quant_max).to(target.torch_dtype)


def requantization_table(source: QParams, target: QParams) -> Tensor:
    """What each code of `source` becomes in `target`, lowest code first: (256,) for 8 bits.

    Exact rational arithmetic on the scales as they are kept (float64), ties to even as in `quantize`.

    Raises:
        ValueError: parameters for each channel.
    """
    if source.axis is not None or target.axis is not None:
        raise ValueError("`source` and `target` must have one scale each, got one for each channel.")
    ratio = Fraction(source.scale) / Fraction(target.scale)
    exact = [ratio * (q - source.zero_point) for q in range(source.quant_min, source.quant_max + 1)]
    codes = [min(max(round(value) + target.zero_point, target.quant_min), target.quant_max) for value in exact]
    return torch.tensor(codes, dtype=target.torch_dtype)


def apply_table(q: Tensor, table: Tensor) -> Tensor:
    """Looks up each code of `q`, of any shape, in a table that begins with the lowest code of its type."""
    return table[q.long() - torch.iinfo(q.dtype).min]


def _int64(values: Tensor) -> Tensor:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"`accumulator` must hold integers, got {values.dtype}.")
    values = values.long()
    if ((values < INT32.min) | (values > INT32.max)).any():
        raise ValueError(f"`accumulator` must fit in 32 bits, got {values.min()} to {values.max()}.")
    return values


def _doubling_high_mul(values: Tensor, mantissa: Tensor) -> Tensor:
    """gemmlowp's SaturatingRoundingDoublingHighMul: product / 2^31, ties towards plus infinity.

    It saturates for one product alone, that of -2^31 with itself, and mantissas are positive.
    """
    return (values * mantissa + (1 << 30)) >> 31


def _rounding_divide_by_pot(values: Tensor, exponent: Tensor) -> Tensor:
    """gemmlowp's RoundingDivideByPOT: values / 2^exponent, ties away from zero."""
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (values < 0)
    return (values >> exponent) + ((values & mask) > threshold)
