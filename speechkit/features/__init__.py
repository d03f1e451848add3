"""Front ends: waveform (B, N) in [-1, 1] -> features (B, T, F), with lengths."""

from speechkit.features.cmvn import GlobalCMVN, UtteranceCMVN
from speechkit.features.front_end import FrontEnd
from speechkit.features.mfb import MFB
from speechkit.features.mfcc import MFCC
from speechkit.features.waveform import Waveform

__all__ = ["MFB", "MFCC", "FrontEnd", "GlobalCMVN", "UtteranceCMVN", "Waveform"]
