"""Rows of float32 numbers by text, on disk: teacher logits, recorded logits, scored tables, pooled features.

One file of fixed-size records (key, row, checksum) that is only appended to and read through a memory map. The index in
memory takes 12 bytes a record. Several processes may append at once. A record that was cut by a kill or changed on the
disk fails its checksum and is not found. See docs/project/decisions/answer-store.md for why this is not SQLite or Arrow.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from distill.storage import cache_dir, writing_to
from distill.texts import TextInput, content_of

Keys = NDArray[np.uint64]
"""Keys of texts, shape (texts, 2): 16 bytes each."""

Rows = NDArray[np.float32]
"""One row for each key, shape (texts, width)."""

_BLOCK_BYTES = 1 << 22
"""Records checked at a time: in larger blocks the temporary arrays no longer fit the processor's cache."""


def soft_targets_dir() -> Path:
    """Return the folder of teacher logits in the user's cache."""
    return cache_dir() / "soft_targets"


def keys_of(texts: Sequence[TextInput]) -> Keys:
    """Return the key of each text: the first half of its sha256."""
    digests = b"".join(hashlib.sha256(content_of(text)).digest()[:16] for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


class AnswerStore:
    """A map from keys to rows of one width, in a file."""

    def __init__(self, path: Path, width: int) -> None:
        """Name the file, which need not exist yet, and the number of floats in a row."""
        self.path = path
        self._record = np.dtype([("key", "<u8", (2,)), ("row", "<f4", (width,)), ("checksum", "<u8")])
        self._forget()

    def find(self, keys: Keys) -> tuple[NDArray[np.bool_], Rows]:
        """Return which keys are in the store, shape (keys,), and their rows, shape (keys, width); zeros where missing."""
        self._read_new_records()
        if not len(self._sorted):
            return np.zeros(len(keys), dtype=bool), np.zeros((len(keys), *self._record["row"].shape), dtype=np.float32)
        nearest = np.minimum(np.searchsorted(self._sorted, keys[:, 0]), len(self._sorted) - 1)
        records = self._records[self._places[nearest]]
        found = (records["key"] == keys).all(axis=1)
        return found, np.where(found[:, None], records["row"], np.float32(0))

    def append(self, keys: Keys, rows: Rows) -> None:
        """Add records. If a key is added twice, the first row is the one found.

        Raises:
            StorageError: The file cannot be written.
        """
        records = np.empty(len(keys), dtype=self._record)
        records["key"], records["row"] = keys, rows
        records["checksum"] = _checksums(records)
        with writing_to(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The operating system releases the lock when its process ends, killed or not.
            with FileLock(f"{self.path}.lock"), self.path.open("ab") as file:
                # A record that a kill cut short would shift all later ones: remove it.
                if torn := file.tell() % self._record.itemsize:
                    file.truncate(file.tell() - torn)
                file.write(records.tobytes())

    def count(self) -> int:
        """Return the number of records, damaged ones included."""
        return self.path.stat().st_size // self._record.itemsize if self.path.is_file() else 0

    def digest(self) -> str:
        """Return the sha256 of the records, in the order in which they were added."""
        if not self.path.is_file():
            return hashlib.sha256().hexdigest()
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def sync(self) -> None:
        """Flush what was written to the disk, so that it survives a power cut."""
        if self.path.is_file():
            with writing_to(self.path), self.path.open("ab") as file:
                os.fsync(file.fileno())

    def _forget(self) -> None:
        self._records: NDArray[np.void] = np.empty(0, dtype=self._record)
        self._sorted = np.empty(0, dtype=np.uint64)
        self._places = np.empty(0, dtype=np.uint32)

    def _read_new_records(self) -> None:
        """Add the records that this or another process has appended to the index."""
        count = self.count()
        if count < len(self._records):  # the file was replaced
            self._forget()
        if count == len(self._records):
            return
        known, step = len(self._records), max(1, _BLOCK_BYTES // self._record.itemsize)
        self._records = np.memmap(self.path, dtype=self._record, mode="r", shape=(count,))
        blocks = ((start, self._records[start : min(start + step, count)]) for start in range(known, count, step))
        whole = [start + np.flatnonzero(block["checksum"] == _checksums(block)) for start, block in blocks]
        places = np.concatenate([self._places, *whole]).astype(np.uint32)
        keys = np.concatenate([self._sorted, self._records["key"][places[len(self._places) :], 0]])
        order = np.argsort(keys, kind="stable")  # of equal keys the earlier record comes first, and is found
        self._sorted, self._places = keys[order], places[order]


def _checksums(records: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return a sum of each record's 32-bit words, each multiplied by its own odd number, so that any flipped bit changes it."""
    words = np.ascontiguousarray(records).view(np.uint32).reshape(len(records), -1)[:, :-2].astype(np.uint64)
    odd = 0x9E3779B97F4A7C15 * (2 * np.arange(1, words.shape[1] + 1, dtype=np.uint64) + 1)
    sums: NDArray[np.uint64] = (words * odd).sum(axis=1, dtype=np.uint64) + np.uint64(0x5851F42D4C957F2D)
    return sums
