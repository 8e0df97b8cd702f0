"""The same weights for every peer: an fp32 graph by torch's exporter, made once per bundle in potstill's interpreter."""

from __future__ import annotations

from pathlib import Path

from export.measure.protocol import Job

PORTABLE = "portable.onnx"


def portable_graph(job: Job) -> Path:
    """Return the exported fp32 graph of a job's bundle; the parent wrote it beside the peer's folder."""
    return job.folder.parent / PORTABLE


def write_portable(bundle_path: Path, folder: Path) -> Path:
    """Export a bundle's PyTorch model with standard ops only, unless an earlier run did."""
    from distill.bundle import Bundle
    from distill.models.loading import load_bundle
    from export.graph.portable import write_portable_graph

    path = folder / PORTABLE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_portable_graph(load_bundle(Bundle.open(bundle_path))).SerializeToString())
    return path
