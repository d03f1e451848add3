"""Speech from the eSpeak NG library inside the `espeakng-loader` wheel, called through ctypes.

Enters: phrases and a voice, which is an English accent with one of eSpeak's "variants" (formants, pitch, breath:
the timbre) and its own speaking rate and pitch. Leaves: waveforms without the silence around them.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

ACCENTS = (
    "en", "en-us", "en-us-nyc", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp",
)  # fmt: skip
UNREPEATABLE_VARIANTS = ("Reed", "caleb")  # they draw from the C library's rand()
TWIN_VARIANTS = (  # their average spectrum is that of a variant that stays (Gene, Diogo, rob, ...)
    "Gene2", "Henrique", "RicishayMax3", "anikaRobot", "edward2", "fast", "klatt2", "klatt5", "klatt6",
    "miguel", "robert", "robosoft3", "steph2", "steph3",
)  # fmt: skip
VOLUME_THAT_DOES_NOT_CLIP = 30  # of 100; three variants are far louder than the rest

# Constants of espeak-ng/speak_lib.h
_AUDIO_SYNCHRONOUS, _DONT_EXIT, _UTF8, _BY_CHARACTER = 2, 0x8000, 1, 1
_RATE_VOLUME_PITCH_RANGE = (1, 2, 3, 4)


@dataclass(frozen=True)
class Voice:
    """One speaker: accent, timbre, words per minute, and eSpeak's pitch and pitch range (0 to 99)."""

    accent: str
    variant: str
    rate_wpm: float
    pitch: float
    pitch_range: float

    @property
    def speaker(self) -> str:
        """Name of the speaker in manifests and folders, such as `en-us_f3`."""
        return f"{self.accent}_{self.variant}".replace(" ", "-")


def usable_variants() -> list[str]:
    """Timbres of the installed eSpeak NG, without the unrepeatable ones and the near copies of another."""
    folder = Path(_espeak().get_data_path()) / "voices" / "!v"
    return sorted({path.name for path in folder.iterdir()} - {*UNREPEATABLE_VARIANTS, *TWIN_VARIANTS})


def speak(phrases: Sequence[str], voice: Voice) -> tuple[list[np.ndarray], int]:
    """Speak phrases with eSpeak NG, without the silence around them.

    Part of the library's state (the phase of pitch flutter, echo, breath noise) outlives `espeak_Terminate`:
    the library is loaded afresh each time (1 ms), so that the samples depend on the arguments only.

    Args:
        phrases: texts, each spoken with its own intonation.
        voice: who speaks, at which rate and pitch.

    Returns:
        One float32 waveform (N,) per phrase within [-1, 1], and their sample rate in Hz.
    """
    loader = _espeak()
    library = ctypes.CDLL(loader.get_library_path())
    received: list[bytes] = []

    def receive(samples: int | None, num_samples: int, events: int | None) -> int:
        if samples and num_samples > 0:
            received.append(ctypes.string_at(samples, 2 * num_samples))
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(receive)
    data_path = os.fsencode(loader.get_data_path())
    sample_rate_hz = library.espeak_Initialize(_AUDIO_SYNCHRONOUS, 0, data_path, _DONT_EXIT)
    assert sample_rate_hz > 0, "the eSpeak NG library refuses its own data folder"
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    library.espeak_SetSynthCallback(callback)
    status = library.espeak_SetVoiceByName(f"{voice.accent}+{voice.variant}".encode())
    assert status == 0, f"eSpeak NG has no voice {voice}"
    values = (voice.rate_wpm, VOLUME_THAT_DOES_NOT_CLIP, voice.pitch, voice.pitch_range)
    for parameter, value in zip(_RATE_VOLUME_PITCH_RANGE, values, strict=True):
        library.espeak_SetParameter(parameter, round(value), 0)
    waveforms = []
    for phrase in phrases:
        received.clear()
        text = phrase.encode() + b"\0"
        library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, _BY_CHARACTER, 0, _UTF8, None, None)
        waveforms.append(_trim(np.frombuffer(b"".join(received), np.int16) / np.float32(32768)))
    library.espeak_Terminate()
    _unload(library)
    return waveforms, sample_rate_hz


def _trim(waveform: np.ndarray) -> np.ndarray:
    """Cut the ends that are 46 dB under the peak."""
    assert waveform.any(), "eSpeak NG returned silence"
    loud = np.flatnonzero(np.abs(waveform) > 0.005 * np.max(np.abs(waveform)))
    return waveform[loud[0] : loud[-1] + 1]


def _espeak() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as error:
        message = "a synthetic corpus needs espeakng_loader: pip install speechkit[demo]"
        raise ImportError(message) from error
    return espeakng_loader


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes

    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)
