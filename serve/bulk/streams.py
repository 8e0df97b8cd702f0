"""Compressed input: how much a file may expand to, how much memory its decompressor may take, how large a dictionary is."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from distill.errors import requires

with requires("bulk scoring"):
    import fsspec

MAX_RATIO = 200
"""Bytes that a compressed byte may become; text becomes 3 to 20."""

FREE_BYTES = 64 * 2**20
"""A file may always become this large: little of it may be very repetitive."""

XZ_MEMORY_BYTES = 256 * 2**20
"""Memory of the decompressor of an xz file; `xz -9` needs 65 MB."""

_READ_BYTES = 64 * 1024


@contextmanager
def expanded(url: str, size_bytes: int, error: Callable[[str], Exception]) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed by the ending of its name.

    Args:
        url: The file.
        size_bytes: Its size as stored.
        error: Makes the error of a problem with it.

    Yields:
        An object with `read`; it raises an error when the file expands too much, or is damaged.
    """
    is_xz = url.lower().endswith(".xz")
    with fsspec.open(url, "rb", compression=None if is_xz else "infer") as file:
        bounded = cast("IO[bytes]", _Bounded(_Xz(file) if is_xz else file, max(FREE_BYTES, size_bytes * MAX_RATIO), error))
        try:
            yield bounded
        except (EOFError, OSError, lzma.LZMAError) as exc:
            raise error(f": cannot read the file to its end: {exc}") from exc


class _Bounded:
    """Ends in an error after a number of bytes."""

    def __init__(self, file: Any, limit_bytes: int, error: Callable[[str], Exception]) -> None:
        self._file, self._left, self._error = file, limit_bytes, error

    def read(self, count: int) -> bytes:
        content: bytes = self._file.read(count)
        self._left -= len(content)
        if self._left < 0:
            raise self._error(f" becomes more than {MAX_RATIO} times as large as it is; decompress it first if that is right")
        return content


class _Xz:
    """Like `lzma.LZMAFile`, which has no limit on memory: the header of a file asks for up to 4 GiB."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decoder: lzma.LZMADecompressor | None = None

    def read(self, count: int) -> bytes:
        while True:
            if self._decoder is None or self._decoder.eof:
                begun = self._next_stream()
                if not begun:
                    return b""
                self._decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES)
            else:
                begun = self._file.read(_READ_BYTES) if self._decoder.needs_input else b""
                if not begun and self._decoder.needs_input:
                    raise EOFError("it ends before the end of the stream")
            if content := self._decoder.decompress(begun, max_length=count):
                return content

    def _next_stream(self) -> bytes:
        """Return the beginning of the next stream, after any padding; empty at the end of the file."""
        waiting = self._decoder.unused_data if self._decoder else b""
        while not (begun := waiting.lstrip(b"\0")) and (waiting := self._file.read(_READ_BYTES)):
            pass
        return begun


def dictionary_bytes(url: str, offset: int) -> int:
    """Return how large a dictionary page of a Parquet file is when it is decompressed, by the header that its reader believes.

    The header is Thrift's compact protocol: its first three fields are whole numbers, the kind of page and its two sizes.
    """
    with fsspec.open(url, "rb") as file:
        file.seek(offset)
        header = file.read(32)
    values, place = [], 0
    for _ in range(2):
        if header[place : place + 1] != b"\x15":  # the next field, a 32-bit number
            return 0  # not a page: the reader will refuse it
        value = shift = 0
        place += 1
        while place < len(header):
            byte = header[place]
            value, shift, place = value | (byte & 0x7F) << shift, shift + 7, place + 1
            if byte < 0x80:
                break
        values.append((value >> 1) ^ -(value & 1))  # zigzag
    return max(0, values[1])
