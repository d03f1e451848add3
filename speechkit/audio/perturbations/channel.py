"""Channels: the band of a telephone, and what codecs leave of speech."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soundfile

from speechkit.audio.perturbations.perturbation import Perturbation, check_probability


class Codec(NamedTuple):
    """How soundfile calls it."""

    format: str
    subtype: str
    has_strength: bool = False  # takes a compression level
    rates_hz: tuple[int, ...] | None = None  # that it can do; none: any


CODECS = {
    "mu-law": Codec("WAV", "ULAW"),
    "a-law": Codec("WAV", "ALAW"),
    "pcm8": Codec("WAV", "PCM_U8"),
    "adpcm": Codec("WAV", "IMA_ADPCM"),
    "gsm": Codec("WAV", "GSM610"),
    "vorbis": Codec("OGG", "VORBIS", has_strength=True),
    "opus": Codec("OGG", "OPUS", has_strength=True, rates_hz=(8000, 12000, 16000, 24000, 48000)),
    "mp3": Codec(
        "MP3",
        "MPEG_LAYER_III",
        has_strength=True,
        rates_hz=(8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    ),
}


class CodecPerturbation(Perturbation):
    """Encodes and decodes in memory, by libsndfile: G.711, 8 bits, ADPCM of 4 bits, GSM 06.10, Vorbis, Opus, MP3.

    The length stays. Codecs of variable quality get one at random, of all that libsndfile offers.

    Args:
        codecs: one is drawn for each utterance, of "mu-law", "a-law", "pcm8", "adpcm", "gsm", "vorbis", "opus", "mp3".
        probability: of an utterance being perturbed.
        sample_rate_hz: rate of the waveform.

    Raises:
        ValueError: no codecs, an unknown one, one that this libsndfile lacks or that cannot do the rate, or a
            probability outside [0, 1].
    """

    def __init__(
        self,
        codecs: Sequence[str] = ("mu-law", "a-law", "adpcm", "opus", "mp3"),
        probability: float = 0.3,
        sample_rate_hz: int = 16000,
    ) -> None:
        check_probability(probability)
        if not codecs or not set(codecs) <= CODECS.keys():
            raise ValueError(f"`codecs` must be some of {', '.join(CODECS)}, got {list(codecs)}.")
        for name in codecs:
            codec = CODECS[name]
            if codec.rates_hz is not None and sample_rate_hz not in codec.rates_hz:
                raise ValueError(f"`sample_rate_hz` must be one of {codec.rates_hz} for {name}, got {sample_rate_hz}.")
            if not soundfile.check_format(codec.format, codec.subtype):
                raise ValueError(f"`codecs` must be what libsndfile can write, which {name!r} is not here.")
        self.codecs, self.probability, self.sample_rate_hz = tuple(codecs), probability, sample_rate_hz

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability or len(samples) == 0:
            return samples
        codec = CODECS[self.codecs[int(generator.integers(len(self.codecs)))]]
        level = generator.random()
        buffer = io.BytesIO()
        soundfile.write(
            buffer,
            np.clip(samples, -1.0, 1.0),
            self.sample_rate_hz,
            format=codec.format,
            subtype=codec.subtype,
            compression_level=level if codec.has_strength else None,
        )
        buffer.seek(0)
        decoded, _ = soundfile.read(buffer, dtype="float32")
        return np.pad(decoded, (0, max(0, len(samples) - len(decoded))))[: len(samples)]


class BandLimitPerturbation(Perturbation):
    """Cuts off what is below and above a band, as telephones, small loudspeakers and old recordings do.

    Args:
        low_hz: the lower edge is uniform between 0 and this.
        high_hz: the upper edge is uniform between this and half the sample rate.
        probability: of an utterance being perturbed.
        sample_rate_hz: rate of the waveform.

    Raises:
        ValueError: not 0 <= low_hz < high_hz <= sample_rate_hz / 2, or a probability outside [0, 1].
    """

    def __init__(
        self, low_hz: float = 300.0, high_hz: float = 3400.0, probability: float = 0.3, sample_rate_hz: int = 16000
    ) -> None:
        if not 0.0 <= low_hz < high_hz <= sample_rate_hz / 2:
            raise ValueError(
                "`low_hz` and `high_hz` must satisfy 0 <= low_hz < high_hz <= sample_rate_hz / 2, "
                f"got {low_hz} and {high_hz} at {sample_rate_hz} Hz."
            )
        check_probability(probability)
        self.low_hz, self.high_hz, self.probability = low_hz, high_hz, probability
        self.sample_rate_hz = sample_rate_hz

    def __call__(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        from scipy.signal import butter, sosfilt  # a runtime that only transcribes goes without scipy

        if generator.random() >= self.probability or len(samples) == 0:
            return samples
        nyquist_hz = self.sample_rate_hz / 2
        low_hz, high_hz = generator.uniform(0.0, self.low_hz), generator.uniform(self.high_hz, nyquist_hz)
        edges = np.clip([low_hz, high_hz], 1.0, 0.999 * nyquist_hz)
        return sosfilt(butter(4, edges, "bandpass", fs=self.sample_rate_hz, output="sos"), samples).astype(np.float32)
