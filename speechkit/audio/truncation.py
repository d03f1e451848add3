"""Whether a file holds all that its container declares: libsndfile reads a WAV, AIFF or Ogg file that was cut off in
the middle without a word. (It does tell of a cut FLAC, and of a cut MP3 that declares its length.)
"""

import os
import struct
from typing import BinaryIO

_STREAMED_BYTES = 0x7FFFF000  # declared from here on: written to a pipe, the length was never known
_TOLERATED_BYTES = 64  # some writers count their own header as data
_LARGEST_OGG_PAGE_BYTES = 27 + 255 + 255 * 255


def missing_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that a WAV, AIFF or Ogg file declares and lacks; 0 for a whole file and for every other format.

    An Ogg file that was cut between two pages declares nothing that it lacks.
    """
    with open(path, "rb") as file:
        magic = file.read(12)
        if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
            return _missing_in_chunk(file, b"data", "<")
        if magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
            return _missing_in_chunk(file, b"SSND", ">")
        return _missing_in_last_page(file) if magic[:4] == b"OggS" else 0


def _missing_in_chunk(file: BinaryIO, wanted: bytes, byte_order: str) -> int:
    """Walks the chunks of a RIFF or IFF file, from behind its first header, to the one that holds the samples."""
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack(f"{byte_order}4sI", header)
        if name == wanted:
            missing = file.tell() + size - os.fstat(file.fileno()).st_size
            return missing if size < _STREAMED_BYTES and missing > _TOLERATED_BYTES else 0
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _missing_in_last_page(file: BinaryIO) -> int:
    """Ogg (RFC 3533, section 6): byte 26 of a page counts its segments, whose lengths follow."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _LARGEST_OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    if page[:5] != b"OggS\0":
        return 0
    if len(page) < 27 + (page + bytes(27))[26]:
        return 1
    return max(0, 27 + page[26] + sum(page[27 : 27 + page[26]]) - len(page))
