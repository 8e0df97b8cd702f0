"""ONNX Runtime for browsers: two files of one release of its npm package, checked by their digests and kept in the cache."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Final, cast

from distill.errors import SettingsError
from distill.storage import cache_dir, require_writable, write_atomically

logger = logging.getLogger(__name__)

VERSION: Final = "1.30.0"
ARCHIVE: Final = f"onnxruntime-web-{VERSION}.tgz"
_INTEGRITY: Final = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""The sha512 of the archive, as npm writes it."""

# The build for the processor alone: no WebGPU, on which int8 answers were wrong (huggingface/transformers.js #1728).
_MEMBERS: Final = {
    "onnxruntime.js": ("ort.wasm.bundle.min.mjs", "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90"),
    "onnxruntime.wasm": ("ort-wasm-simd-threaded.wasm", "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"),
}
"""Each file by its name beside the page: its name in the archive, and its sha256."""


def runtime_files() -> dict[str, bytes]:
    """Return the files by their names beside the page, from the cache; the first time, download them.

    Raises:
        SettingsError: npm is missing or cannot download the archive, or its digest is another.
        StorageError: The cache cannot be written.
    """
    kept = {name: content for name in _MEMBERS if (content := _kept(name)) is not None}
    if kept.keys() != _MEMBERS.keys():
        require_writable(folder())
        with tarfile.open(fileobj=io.BytesIO(_archive())) as archive:
            for name, (member, _) in _MEMBERS.items():
                kept[name] = cast("IO[bytes]", archive.extractfile(f"package/dist/{member}")).read()
                write_atomically(folder() / name, kept[name])
    return kept


def folder() -> Path:
    """Return where the files are kept, and where the archive may be put by hand."""
    return cache_dir() / f"onnxruntime-web-{VERSION}"


def _kept(name: str) -> bytes | None:
    """Return a file that is in the cache, undamaged."""
    path = folder() / name
    content = path.read_bytes() if path.is_file() else None
    if content is not None and hashlib.sha256(content).hexdigest() != _MEMBERS[name][1]:
        logger.warning("%s is damaged; unpacking it again", path)
        return None
    return content


def _archive() -> bytes:
    """Return the archive, after checking its digest: the one that the user put into the cache, else npm's."""
    provided = folder() / ARCHIVE
    content = provided.read_bytes() if provided.is_file() else _downloaded()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if digest != _INTEGRITY:
        raise SettingsError(
            f"{ARCHIVE} has sha512 {digest}, expected {_INTEGRITY}; it is not the tested release"
            + (f": remove {provided}" if provided.is_file() else "")
        )
    return content


def _downloaded() -> bytes:
    by_hand = f"put {ARCHIVE} from the npm registry into {folder()}"
    npm = shutil.which("npm")
    if npm is None:
        raise SettingsError(
            f"--layout web needs npm to download onnxruntime-web, and npm is not installed; install it, or {by_hand}"
        )
    logger.info("downloading %s (33 MB, once) with npm", ARCHIVE)
    with tempfile.TemporaryDirectory(prefix="potstill-") as made:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", made]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=made)
        fetched = Path(made, ARCHIVE)
        if done.returncode or not fetched.is_file():
            raise SettingsError(
                f"npm could not download onnxruntime-web {VERSION} ({_reason(done.stderr)}); connect to the network for the "
                f"first page, or {by_hand}"
            )
        return fetched.read_bytes()


def _reason(stderr: str) -> str:
    """Return what npm reported first, after the codes of the error."""
    lines = [line.removeprefix("npm error ") for line in stderr.splitlines() if line.startswith("npm error ")]
    return next((line for line in lines if not line.startswith(("code ", "syscall ", "errno "))), "npm reported no reason")
