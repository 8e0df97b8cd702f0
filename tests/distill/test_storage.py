"""Files are there whole or not at all, and a refusal of the system is said in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.errors import StorageError
from distill.storage import cache_dir, kept_or_made, require_writable, reserve, write_atomically, writing_to

OLD, NEW = b"old content", b"new content" * 1000


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("content", "written"), [("gut ✓\n", "gut ✓\n".encode()), (b"\x00\xff\r\n", b"\x00\xff\r\n"), ("", b"")]
)
def test_a_file_holds_exactly_what_was_given(tmp_path: Path, content: str | bytes, written: bytes) -> None:
    write_atomically(tmp_path / "new" / "folder" / "file", content)
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == written


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    write_atomically(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_process_killed_before_the_file_is_in_place_leaves_the_old_one(tmp_path: Path, step: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    program = f"""
import os, pathlib, signal, sys
from distill.storage import write_atomically
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{"os.fsync" if step == "fsync" else "pathlib.Path.replace"} = die
write_atomically(pathlib.Path(sys.argv[1]), {NEW!r})
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "file")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == OLD


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    (tmp_path / "file").write_bytes(OLD)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError if isinstance(error, OSError) else KeyboardInterrupt):
        write_atomically(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == OLD
    assert names_in(tmp_path) == ["file"]


def test_a_file_larger_than_the_system_allows_leaves_the_old_one(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    (tmp_path / "file").write_bytes(OLD)
    program = """
import pathlib, resource, signal, sys
from distill.errors import StorageError
from distill.storage import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    write_atomically(pathlib.Path(sys.argv[1]), b"x" * 10_000)
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "file")], capture_output=True, text=True, check=True)
    assert f"cannot write {tmp_path / 'file'}: File too large; free some space or choose another folder" in done.stdout
    assert (tmp_path / "file").read_bytes() == OLD
    assert names_in(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    write_atomically(small_disk / "file", OLD)
    with pytest.raises(StorageError, match=r"cannot write .*file: No space left on device; free some space"):
        write_atomically(small_disk / "file", b"x" * 2**20)
    assert (small_disk / "file").read_bytes() == OLD
    assert names_in(small_disk) == ["file"]


def test_values_are_made_once_for_the_same_inputs(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"count": len(made)}

    path = tmp_path / "kept.json"
    assert kept_or_made(path, decided_by=["a", 1], make=make) == {"count": 1}
    assert kept_or_made(path, decided_by=["a", 1], make=make) == {"count": 1}
    assert kept_or_made(path, decided_by=["a", 2], make=make) == {"count": 2}  # other inputs
    path.write_text('{"key": ', encoding="utf-8")  # cut off
    assert kept_or_made(path, decided_by=["a", 2], make=make) == {"count": 3}


def test_a_file_to_be_mapped_has_its_bytes_or_is_refused(small_disk: Path) -> None:
    reserve(small_disk / "mapped", 4096)
    assert (small_disk / "mapped").read_bytes() == bytes(4096)
    with pytest.raises(StorageError, match="No space left on device"):
        reserve(small_disk / "mapped", 2**20)


def test_a_full_disk_is_noticed_before_the_work(small_disk: Path) -> None:
    require_writable(small_disk / "out")
    assert names_in(small_disk / "out") == []
    space = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(b"x" * (space.f_bavail * space.f_frsize))
    with pytest.raises(StorageError, match="No space left on device"):
        require_writable(small_disk / "out")


def test_a_read_only_folder_is_noticed_before_the_work(small_disk: Path, make_read_only: Callable[[], None]) -> None:
    (small_disk / "file").write_bytes(OLD)
    make_read_only()
    for work in (lambda: require_writable(small_disk), lambda: write_atomically(small_disk / "file", NEW)):
        with pytest.raises(StorageError, match="Read-only file system"):
            work()
    assert (small_disk / "file").read_bytes() == OLD


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(StorageError, match="cannot write"):
            require_writable(place)
    with pytest.raises(StorageError, match="Is a directory"):
        write_atomically(tmp_path, NEW)


def test_only_the_refusals_of_the_system_are_translated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ours"), writing_to(tmp_path):
        raise ValueError("ours")
    inner = StorageError("said already")
    with pytest.raises(StorageError) as caught, writing_to(tmp_path):
        raise inner
    assert caught.value is inner


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("POTSTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache_dir() == tmp_path / "xdg" / "potstill"
    assert not (tmp_path / "xdg").exists()  # asking makes nothing
