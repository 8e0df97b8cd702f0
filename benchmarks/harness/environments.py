"""Environments for peers whose dependencies cannot stand beside ours; made once, under `.peers`.

Each sees the packages of the running interpreter behind its own, so that torch is not installed again.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import venv
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.harness.peer import peers
from benchmarks.peers.servers import SERVERS
from export.measure.children import run_child
from export.measure.workers import ROOT, PeerError

FOLDER = ROOT / ".peers"
OTHERS = {
    "engines": ("pyspark==4.3.0", "dask[dataframe]==2026.8.0", "ray[serve]==2.60.0"),
    "language-model": ("xllamacpp==2026.10.11549",),
}
"""Not peers: what the recipes of bulk scoring run on (Spark needs Java 17 beside it), and what serves a language model."""

NODE_PACKAGES = ("@huggingface/transformers@4.3.1", "axe-core@4.14.1")
"""transformers.js, which runs a bundle's layout, and what checks pages for people who use a keyboard or a screen reader."""

# Else the ONNX Runtime of transformers.js fetches libraries for graphics cards from elsewhere.
NODE_SKIPS = {"ONNXRUNTIME_NODE_INSTALL": "skip", "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}
STAMP = ".installed"


def requirements_of(name: str) -> tuple[str, ...]:
    """Return what pip installs for a peer or a server; nothing for one that runs in the harness's own environment."""
    servers = {each: server.packages for each, server in SERVERS.items()}
    return {**OTHERS, **servers, **{each: peer.packages for each, peer in peers().items()}}.get(name, ())


def is_ready(name: str, *, folder: Path = FOLDER) -> bool:
    """Tell whether a peer or a server can be started without an installation."""
    packages = requirements_of(name)
    return not packages or is_installed(folder / name, packages)


def python_of(name: str, *, folder: Path = FOLDER) -> Path:
    """Return the interpreter of a peer's or a server's environment, made if need be; the harness's own if it needs none.

    Raises:
        PeerError: Its packages will not install; the reason is pip's last word.
    """
    environment, packages = folder / name, requirements_of(name)
    python = environment / "bin" / "python" if packages else Path(sys.executable)
    if not is_ready(name, folder=folder):
        venv.create(environment, clear=True)
        theirs = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
        # Last in the search order: what the peer brings itself comes first.
        (theirs / "behind.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
        # Another torch would be one for graphics cards, of several GB; a peer that insists on one is skipped.
        torch = f"torch=={metadata.version('torch').partition('+')[0]}"
        _install(environment, [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", torch], packages)
    return python


def node_folder(*, folder: Path = FOLDER) -> Path:
    """Return a folder whose `node_modules` hold `NODE_PACKAGES`, made if need be.

    Raises:
        PeerError: npm is missing, or cannot install them.
    """
    place = folder / "node"
    if not is_installed(place, NODE_PACKAGES):
        if shutil.which("npm") is None:
            raise PeerError("packages for Node and the browser need npm, which is not there; install Node.js")
        place.mkdir(parents=True, exist_ok=True)
        _install(place, ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(place)], NODE_PACKAGES)
    return place


def is_installed(place: Path, packages: Sequence[str]) -> bool:
    """Tell whether the folder of an environment holds these packages, and no others."""
    stamp = place / STAMP
    return stamp.exists() and stamp.read_text() == "\n".join(packages)


def _install(place: Path, command: Sequence[str], packages: Sequence[str]) -> None:
    done = run_child([*command, *packages], env={**os.environ, **NODE_SKIPS})
    if done.returncode:
        said = done.stderr.splitlines()
        errors = [line for line in said if line.startswith(("ERROR", "npm error"))] or said[-1:]
        raise PeerError(f"{place.name} will not install: {' '.join(errors)[:300]}")
    (place / STAMP).write_text("\n".join(packages))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(node_folder() if name == "node" else python_of(name))
