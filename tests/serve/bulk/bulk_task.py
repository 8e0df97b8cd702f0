"""Tables to score, and what was written, as plain functions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tiny_task import tiny_texts


def write_table(path: Path, count: int, *, seed: int = 0, row_group_size: int = 100) -> list[str]:
    """Write a Parquet file of distinct texts with a key and a column to pass through, and return the texts."""
    texts = [text for text, _ in tiny_texts(count, seed)]
    table = pa.table({"id": range(count), "text": texts, "stars": [str(number % 5) for number in range(count)]})
    pq.write_table(table, path, row_group_size=row_group_size)
    return texts


def digest_of(folder: Path) -> str:
    """Return one digest of every file below a folder and its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_parts(folder: Path) -> pa.Table:
    """Return all parts as one table, in order."""
    return pq.read_table(folder)
