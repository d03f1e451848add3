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
from speechkit.audio.perturbations import (
    BandLimitPerturbation,
    ClippingPerturbation,
    CodecPerturbation,
    GainPerturbation,
    LevelDriftPerturbation,
    NoisePerturbation,
    PausePerturbation,
    Perturbation,
    PitchPerturbation,
    RoomPerturbation,
    SpeedPerturbation,
    TempoPerturbation,
)
from speechkit.audio.segmentation import AudioSegment, Segmenter
from speechkit.audio.voice_activity import VoiceActivityDetector

__all__ = [
    "AudioError",
    "AudioInfo",
    "AudioSegment",
    "BandLimitPerturbation",
    "ClippingPerturbation",
    "CodecPerturbation",
    "GainPerturbation",
    "LevelDriftPerturbation",
    "NoisePerturbation",
    "PausePerturbation",
    "Perturbation",
    "PitchPerturbation",
    "Resampler",
    "RoomPerturbation",
    "Segmenter",
    "SpeedPerturbation",
    "TempoPerturbation",
    "VoiceActivityDetector",
    "decode_audio",
    "find_audio_files",
    "load_audio",
    "read_audio_info",
    "resample",
    "stream_audio",
]
