"""Encoders: features (B, T, F) -> representations (B, T', D), with lengths."""

from speechkit.encoders.recurrent import ConvGRUEncoder
from speechkit.encoders.separable import SeparableConvEncoder

__all__ = ["ConvGRUEncoder", "SeparableConvEncoder"]
