"""The cache folder, and writing files atomically, so that an incomplete file is never mistaken for a complete one."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from distill.errors import StorageError


def cache_dir() -> Path:
    """Return the cache folder: `POTSTILL_CACHE`, by default the user's cache folder on this platform (XDG on Linux)."""
    return Path(os.environ.get("POTSTILL_CACHE") or platformdirs.user_cache_dir("potstill"))


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Raise an `OSError` of the block as a `StorageError` that names `path`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror or exc}; free some space or choose another folder") from exc


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a temporary file, flush it to disk and rename it to `path`; until then an existing file is unchanged."""
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file; if the block succeeds, it is flushed to disk and renamed to `path`.

    Until then an existing file is unchanged. A killed process can leave its temporary file; `sweep` removes it.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def kept_or_made(path: Path, *, decided_by: Sequence[object], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON values that an earlier run kept in a file for the same inputs; else make and keep them.

    Args:
        path: The file; one that cannot be read is replaced.
        decided_by: Everything that decides the values, as JSON values.
        make: Returns the values.
    """
    key = hashlib.sha256(json.dumps(decided_by).encode()).hexdigest()
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        if found.pop("key") == key:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing is kept, or not whole
    made = make()
    write_atomically(path, json.dumps({"key": key, **made}))
    return made


def reserve(path: Path, num_bytes: int) -> None:
    """Write a file of zeros whose bytes are all on the disk, to be mapped.

    A mapped file with holes cannot report a full disk: writing to it ends the process with SIGBUS.
    """
    with writing_to(path), path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            return
        for start in range(0, num_bytes, _ZEROS):
            file.write(bytes(min(_ZEROS, num_bytes - start)))


_ZEROS = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(path: Path) -> None:
    """Remove the temporary files that killed processes left while writing this file."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Create the folder and write a small file in it, so that a long job fails at its start rather than at its end."""
    probe = folder / f".potstill-{secrets.token_hex(4)}.tmp"
    write_atomically(probe, b"potstill" * 512)
    probe.unlink()
