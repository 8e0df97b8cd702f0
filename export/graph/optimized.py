"""Which ops a graph has after ONNX Runtime has optimized it at load, and whether they are the expected ones.

Fusions change between versions of ONNX Runtime without notice, and some are slower than the ops they replace.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime as ort

from distill.errors import GateError, StorageError
from export.runtime.sessions import DISABLED_OPTIMIZERS


def optimized_ops(graph: onnx.ModelProto) -> Counter[str]:
    """Count the ops of a graph after the optimizations that ONNX Runtime applies when it loads the graph."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        try:
            ort.InferenceSession(
                graph.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(DISABLED_OPTIMIZERS),
            )
        except Exception as exc:  # the exceptions of the library have no other common base class
            if "serialization failed" not in str(exc):
                raise
            raise StorageError(f"cannot write {folder}: ONNX Runtime could not save a graph there; free some space") from exc
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def require_ops(graph: onnx.ModelProto, expected: Mapping[str, int]) -> None:
    """Raise `GateError` unless the optimized graph has each of these ops this many times."""
    found = optimized_ops(graph)
    for op, count in expected.items():
        if found[op] != count:
            raise GateError(
                f"ONNX Runtime {ort.__version__} leaves {found[op]} {op} ops in the graph, expected {count}; "
                "write it with --exporter portable, or install the version in constraints.txt"
            )
