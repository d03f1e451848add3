"""Whether a file holds all that its container declares, and no more: libsndfile reads a WAV, AIFF, AU or Ogg file that
was cut off in the middle without a word, and of two Ogg or MP3 streams in one file the first alone. (It does tell of a
cut FLAC, and of a cut MP3 that declares its length.)
"""

import os
import struct
from typing import BinaryIO

_STREAMED_BYTES = 0x7FFFF000  # declared from here on: written to a pipe, the length was never known
_TOLERATED_BYTES = 64  # some writers count their own header as data
_SEVERAL_FRAMES = 4096  # bytes; some writers leave a frame out of what a Xing header counts
_CHAINED = "holds several streams one after the other, of which only the first would be read; decode it to a file first"


def find_damage(path: str | os.PathLike[str]) -> str | None:
    """What is wrong with a WAV (RF64 and W64 too), AIFF, AU, Ogg or MP3 file; none for a whole file and other formats.

    An Ogg file that was cut between two pages declares nothing that it lacks, nor does an MP3 file without a Xing
    header declare its length.
    """
    with open(path, "rb") as file:
        magic = file.read(12)
        if magic[:4] == b"OggS":
            return _damage_of_ogg(file)
        if magic[:3] == b"ID3" or (magic[:1] == b"\xff" and magic[1:2] >= b"\xe0"):
            return _CHAINED if _another_mp3_follows(file) else None
        end = 0
        if magic[:4] in (b"RIFF", b"RF64") and magic[8:] == b"WAVE":
            end = _end_of_chunk(file, b"data", "<")
        elif magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
            end = _end_of_chunk(file, b"SSND", ">")
        elif magic[:4] == b"riff":
            end = _end_of_w64_data(file)
        elif magic[:4] == b".snd" and len(magic) == 12:
            start, size = struct.unpack(">II", magic[4:])
            end = start + size if size < _STREAMED_BYTES else 0
        missing = end - _size(file)
        return _lacking(missing) if missing > _TOLERATED_BYTES else None


def _lacking(num_bytes: int) -> str:
    return f"truncated, it lacks at least {num_bytes} bytes that it declares"


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _end_of_chunk(file: BinaryIO, wanted: bytes, byte_order: str) -> int:
    """Walks the chunks of a RIFF or IFF file, from behind its first header, to the one that holds the samples."""
    long_size = None
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack(f"{byte_order}4sI", header)
        if name == wanted and long_size is not None:
            return file.tell() + long_size
        if name == wanted:
            return file.tell() + size if size < _STREAMED_BYTES else 0
        content = file.read(16) if name == b"ds64" else b""
        if len(content) == 16:  # RF64 (EBU Tech 3306) keeps the sizes here, in 64 bits
            (long_size,) = struct.unpack("<8xQ", content)
        file.seek(size + size % 2 - len(content), os.SEEK_CUR)
    return 0


def _end_of_w64_data(file: BinaryIO) -> int:
    """Sony Wave64: chunks of a GUID, whose first four bytes are the name, and a size that counts both."""
    file.seek(40)
    while len(header := file.read(24)) == 24:
        size = int.from_bytes(header[16:], "little")
        if header[:4] == b"data":
            return file.tell() - 24 + size
        if size < 24:
            return 0
        file.seek(-(-size // 8) * 8 - 24, os.SEEK_CUR)
    return 0


def _damage_of_ogg(file: BinaryIO) -> str | None:
    """Ogg (RFC 3533, section 6): byte 5 of a page says whether a stream begins, byte 26 counts its segments, whose
    lengths follow. Streams that are mixed begin together."""
    place, size = 0, _size(file)
    has_data = False
    while place < size:
        file.seek(place)
        page = file.read(27 + 255)
        if page[:4] != b"OggS"[: len(page)]:
            return None  # something else behind the last page
        begins = len(page) > 5 and bool(page[5] & 2)
        if begins and has_data:
            return _CHAINED
        has_data = has_data or not begins
        if len(page) < 27 or len(page) < 27 + page[26]:
            return _lacking(1)
        place += 27 + page[26] + sum(page[27 : 27 + page[26]])
    return _lacking(place - size) if place > size else None


def _another_mp3_follows(file: BinaryIO) -> bool:
    """Whether frames of MPEG audio or an ID3v2 tag stand where the Xing header says that the stream ends."""
    file.seek(0)
    start, tag = 0, file.read(10)
    if tag[:3] == b"ID3" and len(tag) == 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(200)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16:
        return False
    flags, frames_or_bytes, maybe_bytes = struct.unpack(">III", frame[at + 4 : at + 16])
    if not flags & 2:
        return False
    end = start + (maybe_bytes if flags & 1 else frames_or_bytes)
    if _size(file) - end < _SEVERAL_FRAMES:
        return False
    file.seek(end)
    following = file.read(4)
    return following[:3] == b"ID3" or (following[:1] == b"\xff" and following[1:2] >= b"\xe0")
