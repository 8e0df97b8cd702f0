"""Sequences of texts and of token ids that stand in files: read through a map, they cost no memory of this process.

Written once, front to back; the pieces' ends stand in a second file. What is not whole is made again, so nothing is
checked. Any number of processes may map what one has written: its pages are in memory once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from distill.storage import writing_to

_END = np.dtype("<i8")
_TOKEN = np.dtype("<i4")


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder and remove it afterwards; what a killed run left in it is removed first."""
    with writing_to(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class MappedTexts(Sequence[str]):
    """Texts in a file."""

    def __init__(self, path: Path) -> None:
        """Map what was written."""
        self._content, self._ends = _map(path, np.dtype(np.uint8))

    @classmethod
    def write(cls, path: Path, texts: Iterable[str]) -> MappedTexts:
        """Write the texts to a new file, one at a time, and map it."""
        _write(path, (text.encode(errors="surrogatepass") for text in texts), item_bytes=1)
        return cls(path)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return bytes(_piece(self._content, self._ends, index)).decode(errors="surrogatepass")


class MappedRows(Sequence[NDArray[np.int64]]):
    """Rows of token ids in a file."""

    def __init__(self, path: Path) -> None:
        """Map what was written."""
        self._content, self._ends = _map(path, _TOKEN)

    @classmethod
    def write(cls, path: Path, rows: Iterable[NDArray[np.int64]]) -> MappedRows:
        """Write the rows to a new file, one at a time, and map it."""
        _write(path, (row.astype(_TOKEN).tobytes() for row in rows), item_bytes=_TOKEN.itemsize)
        return cls(path)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self._ends)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int64]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.int64]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return _piece(self._content, self._ends, index).astype(np.int64)


class JoinedTexts(Sequence[str]):
    """Several sequences of texts, one after the other."""

    def __init__(self, *parts: Sequence[str]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self._parts[part][place - int(self._ends[part])]  # counted from the part's end: negative


def lengths_of(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the tokens of each row, shape (rows,), without reading rows that stand in a file."""
    return rows.lengths if isinstance(rows, MappedRows) else np.array([len(row) for row in rows], dtype=np.int64)


def _write(path: Path, pieces: Iterable[bytes], *, item_bytes: int) -> None:
    end = 0
    with writing_to(path), path.open("wb") as content, _ends_path(path).open("wb") as ends:
        ends.write(bytes(_END.itemsize))
        for piece in pieces:
            content.write(piece)
            end += len(piece) // item_bytes
            ends.write(end.to_bytes(_END.itemsize, "little"))


def _map(path: Path, dtype: np.dtype[np.uint8] | np.dtype[np.int32]) -> tuple[NDArray[np.uint8 | np.int32], NDArray[np.int64]]:
    """Return the content and the pieces' ends, in items; as plain arrays, whose slices cost less than a `memmap`'s."""
    ends = np.memmap(_ends_path(path), dtype=_END, mode="r").view(np.ndarray)
    if not ends[-1]:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype), ends
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray), ends


def _ends_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.ends")


def _piece(content: NDArray[np.uint8 | np.int32], ends: NDArray[np.int64], index: int) -> NDArray[np.uint8 | np.int32]:
    place = range(len(ends) - 1)[index]  # IndexError beyond the end, as a list's
    return content[ends[place] : ends[place + 1]]
