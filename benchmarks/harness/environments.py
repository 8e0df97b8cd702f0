"""Environments for peers whose dependencies cannot stand beside ours; made once, under `.peers`.

Each sees the packages of the running interpreter behind its own, so that torch is not installed again.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import venv
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

# Another torch would be one for graphics cards, of several GB; a peer that insists on one is skipped.
_OURS_STAYS = "torch=={version}\n"
NODE_PACKAGES = ("@huggingface/transformers@4.3.1", "axe-core@4.14.1")
"""transformers.js, which runs a bundle's layout, and what checks pages for people who use a keyboard or a screen reader."""


def requirements_of(name: str) -> tuple[str, ...]:
    """Return what pip installs for a peer or a server; nothing for one that runs in the harness's own environment."""
    if name in OTHERS:
        return OTHERS[name]
    return SERVERS[name].packages if name in SERVERS else peers()[name].packages if name in peers() else ()


def python_of(name: str, *, folder: Path = FOLDER) -> Path:
    """Return the interpreter of a peer's or a server's environment, made if need be; the harness's own if it needs none.

    Raises:
        PeerError: Its packages will not install; the reason is pip's last word.
    """
    packages = requirements_of(name)
    if not packages:
        return Path(sys.executable)
    environment = folder / name
    python = environment / "bin" / "python"
    stamp = environment / ".installed"
    wanted = "\n".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    venv.create(environment, clear=True)
    ours = Path(sysconfig.get_path("purelib"))
    theirs = environment / ours.relative_to(sys.prefix) if ours.is_relative_to(sys.prefix) else None
    if theirs is None:
        raise PeerError(f"{name}: run the harness from a virtual environment; {ours} is not in one")
    # Last in the search order: what the peer brings itself comes first.
    (theirs / "behind.pth").write_text("\n".join(map(str, _packages_of_this_interpreter())) + "\n")
    constraints = environment / "constraints.txt"
    constraints.write_text(_OURS_STAYS.format(version=metadata.version("torch").partition("+")[0]))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "-c", str(constraints)]
    done = run_child([*command, *packages])
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise PeerError(f"{name} will not install: {' '.join(lines)[:300]}")
    stamp.write_text(wanted)
    return python


def _packages_of_this_interpreter() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def node_folder(*, folder: Path = FOLDER) -> Path:
    """Return a folder whose `node_modules` hold `NODE_PACKAGES`, made if need be.

    Raises:
        PeerError: npm is missing, or cannot install them.
    """
    place = folder / "node"
    stamp, wanted = place / ".installed", "\n".join(NODE_PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return place
    place.mkdir(parents=True, exist_ok=True)
    # Else its ONNX Runtime fetches libraries for graphics cards from elsewhere.
    skip = {"ONNXRUNTIME_NODE_INSTALL": "skip", "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(place), *NODE_PACKAGES]
    try:
        done = run_child(command, env={**os.environ, **skip})
    except FileNotFoundError as exc:
        raise PeerError("packages for Node and the browser need npm, which is not there; install Node.js") from exc
    if done.returncode:
        raise PeerError(f"{', '.join(NODE_PACKAGES)} will not install: {done.stderr.strip()[-300:]}")
    stamp.write_text(wanted)
    return place


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(node_folder() if name == "node" else python_of(name))
