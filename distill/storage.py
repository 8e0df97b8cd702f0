"""Where potstill keeps files, and how it writes them so that nothing half-written is taken for whole."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from distill.errors import StorageError


def cache_dir() -> Path:
    """Return the user's cache folder: `POTSTILL_CACHE`, else the platform's own (XDG on Linux)."""
    chosen = os.environ.get("POTSTILL_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("potstill"))


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write below `path` into a `StorageError`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror or exc}; free some space or choose another folder") from exc


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file beside its place, flush it to disk and rename it in; an old file stays until then."""
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write the new content of a file; it is flushed to disk and renamed in when the block ends well.

    The old file stays until then. A kill can leave what was half written; `sweep` removes it.
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


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(path: Path) -> None:
    """Remove what killed writers of this file left beside it."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Create the folder and write a small file in it, so that a long job fails in its first second, not its last."""
    probe = folder / f".potstill-{secrets.token_hex(4)}.tmp"
    write_atomically(probe, b"potstill" * 512)
    probe.unlink()
