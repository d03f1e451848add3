"""Audio from a pipe as it comes: WAV by its header, anything else as raw PCM."""

import io
import math
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from speechkit.audio.files import AudioError

_READ_BYTES = 1 << 16
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OTHER_FORMATS = (b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff", b"RF64", b"riff")
_MPEG_SYNC = (b"\xfa", b"\xfb", b"\xf2", b"\xf3", b"\xe2", b"\xe3", b"\xfc", b"\xfd", b"\xf4", b"\xf5")
_STREAMED_BYTES = 0x7FFFF000  # declared from here on, or 0: written to a pipe, the length was never known


class PCMFormat(NamedTuple):
    """How samples are laid out in bytes, little-endian."""

    sample_rate_hz: int
    num_channels: int = 1
    bits: int = 16
    is_float: bool = False

    @property
    def frame_bytes(self) -> int:
        return self.num_channels * self.bits // 8

    def decode(self, content: bytes) -> np.ndarray:
        """Whole frames -> mono float32 samples (N,) in [-1, 1]."""
        samples: np.ndarray
        if self.is_float:
            samples = np.frombuffer(content, dtype=f"<f{self.bits // 8}")
        elif self.bits == 8:
            samples = np.frombuffer(content, dtype=np.uint8) / np.float32(128) - 1
        elif self.bits == 24:
            bytes_ = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3)
            padded = np.concatenate([np.zeros((len(bytes_), 1), dtype=np.uint8), bytes_], axis=1)
            samples = padded.copy().view("<i4")[:, 0].astype(np.float32) / 2**31
        else:
            samples = np.frombuffer(content, dtype=f"<i{self.bits // 8}").astype(np.float32) / 2 ** (self.bits - 1)
        return samples.reshape(-1, self.num_channels).mean(axis=1, dtype=np.float32)


def stream_pipe(pipe: BinaryIO, raw_format: PCMFormat) -> tuple[int, Iterator[np.ndarray]]:
    """Reads what has come, never waiting for more than there is.

    Args:
        pipe: unbuffered or buffered standard input; WAV if it starts like one, whatever length its header declares.
        raw_format: of anything else.

    Returns:
        The sample rate, and the mono samples in [-1, 1] piece by piece.

    Raises:
        AudioError: nothing came, a WAV of a kind other than PCM or floats, or (when it is reached) a sample that is
            not finite.
    """
    head = _read_exactly(pipe, 12)
    if not head:
        raise AudioError("-: standard input is empty")
    if head.startswith(_OTHER_FORMATS) or head[4:8] == b"ftyp" or _is_mpeg(head):
        raise AudioError(f"-: audio of another format ({head[:4]!r}); pipe WAV or raw PCM, or give the file's name")
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        pcm, size = _read_wav_header(pipe)
        return pcm.sample_rate_hz, _pieces(pipe, pcm, b"", size if 0 < size < _STREAMED_BYTES else None)
    return raw_format.sample_rate_hz, _pieces(pipe, raw_format, head, None)


def _is_mpeg(head: bytes) -> bool:
    """Whether this begins with a frame of MPEG audio: sync, then a bit rate and a sample rate that there are."""
    return (
        len(head) > 2
        and head[:1] == b"\xff"
        and head[1:2] in _MPEG_SYNC
        and head[2] >> 4 not in (0, 15)
        and head[2] >> 2 & 3 != 3
    )


def _pieces(pipe: BinaryIO, pcm: PCMFormat, rest: bytes, size: int | None) -> Iterator[np.ndarray]:
    """Up to the end of the pipe, or of so many bytes: other chunks may stand behind those of the samples."""
    read = pipe.read1 if isinstance(pipe, io.BufferedReader) else pipe.read
    left = math.inf if size is None else size
    while True:
        content = read(int(min(_READ_BYTES, left)))
        left -= len(content)
        rest += content
        whole = len(rest) - len(rest) % pcm.frame_bytes
        samples = pcm.decode(rest[:whole])
        if not np.isfinite(samples).all():
            raise AudioError("-: holds samples that are NaN or infinite")
        if len(samples):
            yield samples
        rest = rest[whole:]
        if not content:
            return


def _read_wav_header(pipe: BinaryIO) -> tuple[PCMFormat, int]:
    """From behind RIFF and WAVE to the first sample; and how many bytes of samples it declares."""
    pcm = None
    while len(header := _read_exactly(pipe, 8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            if pcm is None:
                break
            return pcm, size
        content = _read_exactly(pipe, size + size % 2)
        if name == b"fmt " and len(content) >= 16:
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if kind == _EXTENSIBLE and len(content) >= 26:
                (kind,) = struct.unpack("<H", content[24:26])
            if kind not in (_PCM, _FLOAT) or bits not in ((32, 64) if kind == _FLOAT else (8, 16, 24, 32)):
                raise AudioError(f"-: WAV of kind {kind} with {bits} bits; pipe PCM or floats")
            if not channels or not rate:
                raise AudioError(f"-: WAV header declares {channels} channels at {rate} Hz")
            pcm = PCMFormat(rate, channels, bits, kind == _FLOAT)
    raise AudioError("-: WAV header without samples")


def _read_exactly(pipe: BinaryIO, size: int) -> bytes:
    content = b""
    while len(content) < size and (more := pipe.read(size - len(content))):
        content += more
    return content
