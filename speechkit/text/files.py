"""Text files, plain or compressed, line by line."""

import codecs
import contextlib
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from typing import IO

GZIP_MAGIC = b"\x1f\x8b"


def iterate_lines(path: str | os.PathLike[str], content: bytes | None = None) -> Iterator[bytes]:
    """The lines of a file with their ends; `-` is standard input. Gzip is told by the first bytes, not by the name.

    A byte order mark of UTF-8 is no part of the first line.

    Args:
        path: of the file, or its name for messages where the content is given.
        content: of a file that is in memory.

    Raises:
        ValueError: no such file, or compressed data that is broken or ends too early; the message names file and line.
    """
    number = 0
    with contextlib.ExitStack() as stack:
        try:
            file: IO[bytes]
            if content is not None:
                file = io.BufferedReader(io.BytesIO(content))
            else:
                file = sys.stdin.buffer if str(path) == "-" else stack.enter_context(open(path, "rb"))
            is_compressed = file.peek(2)[:2] == GZIP_MAGIC  # type: ignore[attr-defined]  # of a BufferedReader
            lines: IO[bytes] = stack.enter_context(gzip.open(file)) if is_compressed else file
            for line in lines:
                number += 1
                yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}:{number + 1}: must be sound gzip data, got {str(error).lower()}") from None
