"""Front ends: waveform (B, N) in [-1, 1] -> features (B, T, F), with lengths."""

from speechkit.features.cmvn import GlobalCMVN, SlidingCMVN, UtteranceCMVN
from speechkit.features.convolution import ConvolutionalMFB
from speechkit.features.deltas import Deltas
from speechkit.features.front_end import FrontEnd
from speechkit.features.integer import IntegerMFB
from speechkit.features.mfb import MFB
from speechkit.features.mfcc import MFCC
from speechkit.features.micro import MicroMFB
from speechkit.features.presets import LibrosaMFB, LibrosaMFCC, WhisperMFB
from speechkit.features.quantized import QuantizedFrontEnd, as_quantized_front_end
from speechkit.features.streaming import FeatureStream
from speechkit.features.waveform import Waveform

__all__ = [
    "MFB",
    "MFCC",
    "ConvolutionalMFB",
    "Deltas",
    "FeatureStream",
    "FrontEnd",
    "GlobalCMVN",
    "IntegerMFB",
    "LibrosaMFB",
    "LibrosaMFCC",
    "MicroMFB",
    "QuantizedFrontEnd",
    "SlidingCMVN",
    "UtteranceCMVN",
    "Waveform",
    "WhisperMFB",
    "as_quantized_front_end",
]
