"""Decoding files, resampling, waveform perturbation: everything that happens before a waveform is a tensor."""

from speechkit.audio.files import (
    AudioError,
    AudioInfo,
    decode_audio,
    find_audio_files,
    load_audio,
    read_audio_info,
    resample,
)
from speechkit.audio.perturbation import (
    GainPerturbation,
    NoisePerturbation,
    PausePerturbation,
    Perturbation,
    SpeedPerturbation,
)

__all__ = [
    "AudioError",
    "AudioInfo",
    "GainPerturbation",
    "NoisePerturbation",
    "PausePerturbation",
    "Perturbation",
    "SpeedPerturbation",
    "decode_audio",
    "find_audio_files",
    "load_audio",
    "read_audio_info",
    "resample",
]
