"""Waveform perturbations: drawn anew for each utterance and epoch, in the data workers."""

from speechkit.audio.perturbations.channel import BandLimitPerturbation, CodecPerturbation
from speechkit.audio.perturbations.level import ClippingPerturbation, GainPerturbation, LevelDriftPerturbation
from speechkit.audio.perturbations.noise import NoisePerturbation
from speechkit.audio.perturbations.pause import PausePerturbation
from speechkit.audio.perturbations.perturbation import Perturbation
from speechkit.audio.perturbations.room import RoomPerturbation
from speechkit.audio.perturbations.speed import SpeedPerturbation
from speechkit.audio.perturbations.tempo import PitchPerturbation, TempoPerturbation

__all__ = [
    "BandLimitPerturbation",
    "ClippingPerturbation",
    "CodecPerturbation",
    "GainPerturbation",
    "LevelDriftPerturbation",
    "NoisePerturbation",
    "PausePerturbation",
    "Perturbation",
    "PitchPerturbation",
    "RoomPerturbation",
    "SpeedPerturbation",
    "TempoPerturbation",
]
