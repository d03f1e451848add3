"""Encoders: features (B, T, F) -> representations (B, T', D), with lengths."""

from speechkit.encoders.recurrent import ConvGRUEncoder
from speechkit.encoders.separable import SeparableConvEncoder
from speechkit.encoders.wav2vec2 import Wav2Vec2Encoder

__all__ = ["ConvGRUEncoder", "SeparableConvEncoder", "Wav2Vec2Encoder"]
