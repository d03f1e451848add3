"""The arithmetic of quantized domains, r = S (q - Z): parameters, rounding, integer rescaling, calibration."""

from speechkit.quantization.observers import (
    UNIT_VARIANCE,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
    range_qparams,
)
from speechkit.quantization.qparams import QParams, dequantize, fake_quantize, fake_quantize_learned, quantize
from speechkit.quantization.requantization import (
    FixedPointMultiplier,
    apply_table,
    multiply_fixed_point,
    requantization_table,
    requantize,
)

__all__ = [
    "UNIT_VARIANCE",
    "FixedPointMultiplier",
    "MSEObserver",
    "MinMaxObserver",
    "PercentileObserver",
    "QParams",
    "apply_table",
    "dequantize",
    "fake_quantize",
    "fake_quantize_learned",
    "multiply_fixed_point",
    "quantize",
    "range_qparams",
    "requantization_table",
    "requantize",
]
