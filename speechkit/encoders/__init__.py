"""Encoders: features (B, T, F) -> representations (B, T', D), with lengths."""

from speechkit.encoders.layers import LayerWeightedEncoder
from speechkit.encoders.quantized import QuantizedEncoder
from speechkit.encoders.receptive_field import ReceptiveField, receptive_field
from speechkit.encoders.recurrent import ConvGRUEncoder, ConvLSTMEncoder
from speechkit.encoders.separable import SeparableConvEncoder
from speechkit.encoders.wav2vec import Wav2VecEncoder
from speechkit.encoders.wav2vec2 import Wav2Vec2Encoder

__all__ = [
    "ConvGRUEncoder",
    "ConvLSTMEncoder",
    "LayerWeightedEncoder",
    "QuantizedEncoder",
    "ReceptiveField",
    "SeparableConvEncoder",
    "Wav2Vec2Encoder",
    "Wav2VecEncoder",
    "receptive_field",
]
