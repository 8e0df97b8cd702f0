"""Logits by key, in one file that is only ever appended to.

Fixed-size records (key, logits, checksum), read through a map, so that a file of millions costs 12 bytes of memory a
record: its index. Several processes may append at once; a record that a kill, a crash or a flipped bit spoilt is not
found. Knows nothing of teachers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from distill.labels import Logits
from distill.storage import cache_dir, writing_to

Keys = NDArray[np.uint64]
"""Keys, shape (records, 2): 16 bytes each, of which the first 8 are sorted by and the others compared."""

_BLOCK_RECORDS = 65_536


def soft_targets_dir() -> Path:
    """Return the folder of the user's cache files."""
    return cache_dir() / "soft_targets"


def keys_of(texts: Sequence[str]) -> Keys:
    """Return the key of each text: half of its sha256."""
    # surrogatepass: the tokenizer refuses a lone surrogate, and says which text has it
    digests = b"".join(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:16] for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


class LogitFile:
    """A map from keys to logits, on disk."""

    def __init__(self, path: Path, num_labels: int) -> None:
        """Name a file, which need not be there yet."""
        self.path = path
        self._record = np.dtype([("key", "<u8", (2,)), ("logits", "<f4", (num_labels,)), ("checksum", "<u8")])
        self._records: NDArray[np.void] = np.empty(0, dtype=self._record)
        self._sorted = np.empty(0, dtype=np.uint64)
        self._places = np.empty(0, dtype=np.uint32)

    def find(self, keys: Keys) -> tuple[NDArray[np.bool_], Logits]:
        """Return which keys are there, shape (keys,), and their logits, shape (keys, labels); 0 where there are none."""
        self._take_in_new_records()
        if not len(self._sorted):
            return np.zeros(len(keys), dtype=bool), np.zeros((len(keys), *self._record["logits"].shape), dtype=np.float32)
        nearest = np.minimum(np.searchsorted(self._sorted, keys[:, 0]), len(self._sorted) - 1)
        records = self._records[self._places[nearest]]
        found = (records["key"] == keys).all(axis=1)
        return found, np.where(found[:, None], records["logits"], np.float32(0))

    def append(self, keys: Keys, logits: Logits) -> None:
        """Add records; those written before a kill are whole.

        Raises:
            StorageError: The file cannot be written.
        """
        records = np.empty(len(keys), dtype=self._record)
        records["key"], records["logits"] = keys, logits
        records["checksum"] = _checksums(records)
        with writing_to(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The lock ends with its process, killed or not.
            with FileLock(f"{self.path}.lock"), self.path.open("ab") as file:
                # A record that an earlier kill cut short would shift all that follow: start at a whole one.
                if torn := file.tell() % self._record.itemsize:
                    file.truncate(file.tell() - torn)
                file.write(records.tobytes())

    def count(self) -> int:
        """Return how many records there are, spoilt ones included."""
        return self.path.stat().st_size // self._record.itemsize if self.path.is_file() else 0

    def digest(self) -> str:
        """Return the sha256 of the records, in the order they were added."""
        if not self.path.is_file():
            return hashlib.sha256().hexdigest()
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def sync(self) -> None:
        """Bring what was written onto the disk, where a power cut leaves it alone."""
        if self.path.is_file():
            with writing_to(self.path), self.path.open("ab") as file:
                os.fsync(file.fileno())

    def _take_in_new_records(self) -> None:
        known, count = len(self._records), self.count()
        if count == known:
            return
        if count < known:  # somebody has replaced the file
            self._records, self._sorted, self._places = self._records[:0], self._sorted[:0], self._places[:0]
            known = 0
        if not count:
            return
        self._records = np.memmap(self.path, dtype=self._record, mode="r", shape=(count,))
        # A block at a time: the map's pages are not this process' memory, but copies of them would be.
        for start in range(known, count, _BLOCK_RECORDS):
            block = self._records[start : min(start + _BLOCK_RECORDS, count)]
            whole = np.flatnonzero(block["checksum"] == _checksums(block))
            self._sorted, order = _merged(self._sorted, block["key"][whole, 0])
            self._places = np.concatenate([self._places, (start + whole).astype(np.uint32)])[order]


def _merged(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    both = np.concatenate([first, second])
    order = np.argsort(both, kind="stable")  # of equal keys the earlier record stays the one that is found
    return both[order], order


def _checksums(records: NDArray[np.void]) -> NDArray[np.uint64]:
    """Sum the words of each record, each times its own odd number: a flipped bit always changes the sum."""
    words = np.ascontiguousarray(records).view(np.uint32).reshape(len(records), -1)[:, :-2].astype(np.uint64)
    odd = 0x9E3779B97F4A7C15 * (2 * np.arange(1, words.shape[1] + 1, dtype=np.uint64) + 1)
    sums: NDArray[np.uint64] = (words * odd).sum(axis=1, dtype=np.uint64) + np.uint64(0x5851F42D4C957F2D)
    return sums
