"""Forms of a bundle that scenarios measure: the fp32 graph that all peers start from, and what is shipped of a student."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from distill.bundle import BENCHMARK, WEIGHTS, Bundle
from export.measure.protocol import Job

PORTABLE = "portable.onnx"


def portable_graph(job: Job) -> Path:
    """Return the exported fp32 graph of a job's bundle; the parent wrote it beside the peer's folder."""
    return job.folder.parent / PORTABLE


def write_portable(bundle_path: Path, folder: Path) -> Path:
    """Export a bundle's PyTorch model with standard ops only, unless an earlier run did."""
    from distill.models.loading import load_bundle
    from export.graph.portable import write_portable_graph

    path = folder / PORTABLE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_portable_graph(load_bundle(Bundle.open(bundle_path))).SerializeToString())
    return path


def shipped(bundle: Path, copy: Path, *, without: Iterable[str] = ("model.onnx",)) -> Path:
    """Copy a bundle without its PyTorch weights and what else a server does not need, and return the copy's folder."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle, copy)
    Bundle.open(copy).adding({}, dropping={WEIGHTS, BENCHMARK, *without})
    return copy
