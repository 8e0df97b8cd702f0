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

from export.measure.children import run_child
from export.measure.workers import ROOT, PeerError

FOLDER = ROOT / ".peers"
REQUIREMENTS = {
    # The last three only so that a test can read a Triton config as Triton does.
    "optimum": (
        "optimum-onnx[onnxruntime]==0.1.0",
        "transformers==4.57.6",
        "tritonclient==2.73.0",
        "grpcio==1.85.1",
        "protobuf==7.36.2",
    ),
    "openvino": ("openvino==2026.4.1", "nncf==3.4.0"),
    "ctranslate2": ("ctranslate2==4.8.5",),
    "sentence_transformers": (
        "sentence-transformers==5.2.3",
        "optimum-onnx[onnxruntime]==0.1.0",
        "transformers==4.57.6",
        "datasets==4.4.1",
    ),
    "setfit": ("setfit==1.2.0", "transformers==4.57.6", "sentence-transformers==5.2.3", "datasets==4.4.1"),
    "model2vec": ("model2vec[distill,train]==0.10.0",),
    "textbrewer": ("textbrewer==0.2.1.post1", "tensorboard>=2.19"),
    "torchdistill": ("torchdistill==1.1.5",),
    "txtai": ("txtai==9.14.0",),
    # infinity asks for numpy 1; optimum 2 keeps its ONNX classes in a package of their own.
    "infinity": (
        "infinity-emb[server,optimum]==0.0.78",
        "sentence-transformers==3.4.1",
        "optimum-onnx[onnxruntime]==0.1.0",
        "transformers==4.57.6",
        "numpy==1.26.4",
        # ours are built for numpy 2
        "pandas==2.3.3",
        "pyarrow==21.0.0",
        "datasets==4.0.0",
        "scikit-learn==1.7.2",
        "scipy==1.15.3",
    ),
    "litserve": ("litserve==0.2.19",),
    # httptools comes with uvicorn[standard]; later versions of uvloop end its workers.
    "mlserver": ("mlserver==1.7.1", "uvicorn[standard]", "uvloop==0.21.0"),
    # Not peers but engines that the recipes of bulk scoring run on; Spark needs Java 17 beside it.
    "engines": ("pyspark==4.3.0", "dask[dataframe]==2026.8.0", "ray[serve]==2.60.0"),
}
# What must load after installing; a package can be there and not fit our torch.
LOADS = {"torchdistill": "torchdistill.core.distillation"}
# Another torch would be one for graphics cards, of several GB; a peer that insists on one is skipped.
_OURS_STAYS = "torch=={version}\n"
TRANSFORMERS_JS = "@huggingface/transformers@4.3.1"


def python_of(name: str, *, folder: Path = FOLDER) -> Path:
    """Return the interpreter of a peer's environment, made if need be.

    Raises:
        PeerError: Its packages will not install; the reason is pip's last word.
    """
    environment = folder / name
    python = environment / "bin" / "python"
    stamp = environment / ".installed"
    wanted = "\n".join(REQUIREMENTS[name])
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
    done = run_child([*command, *REQUIREMENTS[name]])
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise PeerError(f"{name} will not install: {' '.join(lines)[:300]}")
    _require_loads(name, python)
    stamp.write_text(wanted)
    return python


def _require_loads(name: str, python: Path) -> None:
    if name not in LOADS:
        return
    done = run_child([str(python), "-c", f"import {LOADS[name]}"])
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1]
        raise PeerError(f"{name} installs, but does not load beside the torch that all rows share: {said}")


def _packages_of_this_interpreter() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def node_folder(*, folder: Path = FOLDER) -> Path:
    """Return a folder whose `node_modules` hold transformers.js, made if need be.

    Raises:
        PeerError: npm is missing, or cannot install it.
    """
    place = folder / "node"
    stamp = place / ".installed"
    if stamp.exists() and stamp.read_text() == TRANSFORMERS_JS:
        return place
    place.mkdir(parents=True, exist_ok=True)
    # Else its ONNX Runtime fetches libraries for graphics cards from elsewhere.
    skip = {"ONNXRUNTIME_NODE_INSTALL": "skip", "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(place), TRANSFORMERS_JS]
    try:
        done = run_child(command, env={**os.environ, **skip})
    except FileNotFoundError as exc:
        raise PeerError("transformers.js needs npm, which is not there; install Node.js") from exc
    if done.returncode:
        raise PeerError(f"transformers.js will not install: {done.stderr.strip()[-300:]}")
    stamp.write_text(TRANSFORMERS_JS)
    return place


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(node_folder() if name == "node" else python_of(name))
