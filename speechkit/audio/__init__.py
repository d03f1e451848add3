"""Decoding files, resampling, waveform perturbation: everything that happens before a waveform is a tensor."""

from speechkit.audio.files import (
    AudioError,
    AudioInfo,
    Resampler,
    decode_audio,
    find_audio_files,
    load_audio,
    read_audio_info,
    resample,
    stream_audio,
)
from speechkit.audio.perturbation import (
    GainPerturbation,
    NoisePerturbation,
    PausePerturbation,
    Perturbation,
    SpeedPerturbation,
)
from speechkit.audio.segmentation import AudioSegment, Segmenter
from speechkit.audio.voice_activity import VoiceActivityDetector

__all__ = [
    "AudioError",
    "AudioInfo",
    "AudioSegment",
    "GainPerturbation",
    "NoisePerturbation",
    "PausePerturbation",
    "Perturbation",
    "Resampler",
    "Segmenter",
    "SpeedPerturbation",
    "VoiceActivityDetector",
    "decode_audio",
    "find_audio_files",
    "load_audio",
    "read_audio_info",
    "resample",
    "stream_audio",
]
