"""Pipes: WAV of every common kind, raw PCM, whatever pieces come; and what is refused."""

import io
import struct

import numpy as np
import pytest
import soundfile

from speechkit.audio import AudioError
from speechkit.audio.standard_input import PCMFormat, stream_pipe

RAW = PCMFormat(16000)
SAMPLES = (0.5 * np.sin(np.arange(1000) / 7)).astype(np.float32)


class Dripping(io.BytesIO):
    """A pipe in which bytes come in odd numbers."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(7 if size is None or size < 0 else min(size, 7))


def read(content: bytes) -> tuple[int, np.ndarray]:
    rate, pieces = stream_pipe(Dripping(content), RAW)
    return rate, np.concatenate([np.zeros(0, dtype=np.float32), *pieces])


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav(subtype: str, channels: int) -> None:
    content = io.BytesIO()
    soundfile.write(content, np.stack([SAMPLES] * channels, axis=1), 22050, format="WAV", subtype=subtype)
    rate, samples = read(content.getvalue())
    assert rate == 22050
    assert np.abs(samples - SAMPLES).max() < (0.01 if subtype == "PCM_U8" else 1e-4)


def test_extensible_wav_of_unknown_length() -> None:
    content = io.BytesIO()
    soundfile.write(content, SAMPLES, 8000, format="WAVEX", subtype="PCM_16")
    data = content.getvalue()
    place = data.index(b"data") + 4
    assert len(read(data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :])[1]) == len(SAMPLES)


def test_raw_pcm() -> None:
    rate, samples = read((SAMPLES * 32768).astype("<i2").tobytes() + b"\x01")  # half a sample at the end
    assert rate == 16000
    assert np.abs(samples - SAMPLES).max() < 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "standard input is empty"),
        (b"\xff\xfb\x90\x64" + bytes(100), "audio of another format"),
        (b"\0\0\0\x20ftypM4A " + bytes(100), "audio of another format"),
        (b"FORM\0\0\0\0AIFF" + bytes(100), "audio of another format"),
        (b"RIFF\0\0\0\0WAVE", "WAV header without samples"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "WAV header without samples"),
        (b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 6, 1, 8000, 8000, 1, 8), "WAV of kind 6 with 8 bits"),
        (b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 0, 8000, 0, 0, 16), "declares 0 channels at 8000 Hz"),
    ],
)
def test_what_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        read(content)


def test_chunks_behind_the_samples_are_no_audio() -> None:
    content = io.BytesIO()
    soundfile.write(content, SAMPLES, 8000, format="WAV", subtype="PCM_16")
    _, samples = read(content.getvalue() + b"id3 " + struct.pack("<I", 4000) + bytes(range(250)) * 16)
    assert len(samples) == len(SAMPLES)


def test_samples_that_are_not_finite() -> None:
    content = io.BytesIO()
    soundfile.write(content, np.full(10, np.nan, dtype=np.float32), 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite"):
        read(content.getvalue())
