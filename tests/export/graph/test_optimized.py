"""Ops that ONNX Runtime fuses away are noticed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distill.errors import GateError
from export.graph.optimized import optimized_ops, require_ops


@pytest.fixture
def graph() -> onnx.ModelProto:
    """Return a residual and its norm, which `SkipLayerNormFusion` makes into one op."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 8]) for name in ("x", "y", "out")]
    nodes = [
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "gamma", "beta"], ["out"]),
    ]
    held = [numpy_helper.from_array(np.ones(8, dtype=np.float32), name) for name in ("gamma", "beta")]
    built = helper.make_graph(nodes, "test", values[:2], values[2:], held)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_norm_stays_what_it_is(graph: onnx.ModelProto) -> None:
    assert optimized_ops(graph) == {"Add": 1, "LayerNormalization": 1}
    require_ops(graph, {"LayerNormalization": 1, "SkipLayerNormalization": 0})


def test_an_op_that_was_fused_away_is_named(graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.graph.optimized.DISABLED_OPTIMIZERS", ())
    with pytest.raises(GateError, match=r"0 LayerNormalization.* 1;.*--exporter portable"):
        require_ops(graph, {"LayerNormalization": 1})
