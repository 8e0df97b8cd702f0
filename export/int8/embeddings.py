"""Quantized embedding tables of a graph: int8 with a scale per row, or 4 bits with a scale per block."""

from __future__ import annotations

from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from distill.scales import quantize_blocks, quantize_rows
from export.int8.editing import add_constants, replace_nodes
from export.runtime.graph_limits import MICROSOFT
from export.settings import EmbeddingPrecision

BLOCK_SIZES = (32, 16)
"""The first that divides the width is used. With 32 values and one 16-bit scale per block, a value takes 4.5 bits."""


def quantize_tables(graph: onnx.ModelProto, precision: EmbeddingPrecision = "int8") -> onnx.ModelProto:
    """Replace each fp32 table that is only used for lookups, in place.

    int8: Gather(table, ids) becomes Cast(Gather(int8 table, ids)) * Gather(scales, ids), which is faster than ONNX Runtime's
    own op for it. int4: one `GatherBlockQuantized` with fp16 scales; a table whose width no block size divides becomes int8. A
    table that is sliced, like positions, is small: it is stored in int8 and converted to fp32 when the graph is loaded.
    """
    if precision == "fp32":
        return graph
    for tensor in [tensor for tensor in graph.graph.initializer if is_table(tensor)]:
        name = tensor.name
        users = [node for node in graph.graph.node if name in node.input]
        if users and all(node.op_type == "Gather" and node.input[0] == name and not _axis(node) for node in users):
            _quantize_table(graph.graph, tensor, users, precision)
        elif users and all(node.op_type == "Slice" and node.input[0] == name for node in users):
            _quantize_at_rest(graph.graph, tensor)
    return graph


def _quantize_table(
    graph: onnx.GraphProto, tensor: TensorProto, lookups: list[onnx.NodeProto], precision: EmbeddingPrecision
) -> None:
    table, name = numpy_helper.to_array(tensor), tensor.name
    block_size = next((size for size in BLOCK_SIZES if table.shape[1] % size == 0), None)
    graph.initializer.remove(tensor)
    if precision == "int4" and block_size is not None:
        nibbles, scales = quantize_blocks(table, block_size=block_size)
        add_constants(graph, {f"{name}_int4": nibbles})
        _widen_at_load(graph, scales, f"{name}_scales", f"{name}_scales_cast")
        replace_nodes(graph, {each.output[0]: [_int4_lookup(name, each, block_size)] for each in lookups})
        return
    values, row_scales = quantize_rows(table)
    add_constants(graph, {f"{name}_int8": values, f"{name}_scales": row_scales})
    replace_nodes(graph, {each.output[0]: _int8_lookup(name, each) for each in lookups})


def _int8_lookup(table: str, lookup: onnx.NodeProto) -> list[onnx.NodeProto]:
    ids, output = lookup.input[1], lookup.output[0]
    return [
        helper.make_node("Gather", [f"{table}_int8", ids], [f"{output}_int8"]),
        helper.make_node("Cast", [f"{output}_int8"], [f"{output}_cast"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{table}_scales", ids], [f"{output}_scales"]),
        helper.make_node("Mul", [f"{output}_cast", f"{output}_scales"], [output]),
    ]


def _int4_lookup(table: str, lookup: onnx.NodeProto, block_size: int) -> onnx.NodeProto:
    return helper.make_node(
        "GatherBlockQuantized",
        [f"{table}_int4", lookup.input[1], f"{table}_scales_cast"],
        [lookup.output[0]],
        domain=MICROSOFT,
        bits=4,
        block_size=block_size,
        gather_axis=0,
        quantize_axis=1,
    )


def _quantize_at_rest(graph: onnx.GraphProto, tensor: TensorProto) -> None:
    """Store a table in int8; ONNX Runtime computes the two new nodes once, when it loads the graph."""
    values, scales = quantize_rows(numpy_helper.to_array(tensor))
    name = tensor.name
    graph.initializer.remove(tensor)
    add_constants(graph, {f"{name}_scales": scales})
    graph.node.insert(0, helper.make_node("Mul", [f"{name}_cast", f"{name}_scales"], [name]))
    _widen_at_load(graph, values, f"{name}_int8", f"{name}_cast")


def _widen_at_load(graph: onnx.GraphProto, values: NDArray[Any], stored: str, name: str) -> None:
    """Store values in their narrow dtype; ONNX Runtime computes the `Cast` to fp32 once, when it loads the graph."""
    add_constants(graph, {stored: values})
    graph.node.insert(0, helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))


def is_table(tensor: TensorProto) -> bool:
    """Return whether a constant can be an embedding table: fp32, two axes, more than one row and column."""
    # With one column a row would grow: to a byte and its scale.
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and min(tensor.dims) > 1


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
