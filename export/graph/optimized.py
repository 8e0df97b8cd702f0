"""What ONNX Runtime makes of a graph when it loads it: which ops are left, and whether they are the ones meant.

Fusions come and go between versions without a word, and some are slower than what they replace.
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
    """Return how often each op stands in a graph after ONNX Runtime has optimized it as it does at load."""
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
        except Exception as exc:  # the library's classes have no common base but Exception
            if "serialization failed" not in str(exc):
                raise
            raise StorageError(f"cannot write {folder}: ONNX Runtime could not put a graph there; free some space") from exc
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def require_ops(graph: onnx.ModelProto, expected: Mapping[str, int]) -> None:
    """Raise `GateError` unless each of these ops stands in the optimized graph as often as it should."""
    found = optimized_ops(graph)
    for op, count in expected.items():
        if found[op] != count:
            raise GateError(
                f"ONNX Runtime {ort.__version__} leaves {found[op]} {op} in the graph, wanted {count}; "
                "write it with --exporter portable, or install the version in constraints.txt"
            )
