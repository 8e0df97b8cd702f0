"""int8 graphs from fp32 graphs: weights per channel, embedding tables per row.

ONNX Runtime's dynamic quantizer does the products. Left to itself it would quantize the embedding tables with one
scale for the whole table; a few large rows then cost every other row its precision, so they are done here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

INT8_LIMIT = 127


def quantize(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the int8 graph of an fp32 graph; the given one stays as it is.

    Products (MatMul, Gemm) have int8 weights with a scale per output channel, and their inputs are quantized as
    they come. Tables that are looked up (Gather) have a scale per row.
    """
    with tempfile.TemporaryDirectory(prefix="potstill-") as folder:
        written = Path(folder) / "int8.onnx"
        source = onnx.ModelProto()
        source.CopyFrom(graph)
        quantize_dynamic(
            source,
            written,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
        quantized = onnx.load(written)
    return quantize_tables(quantized)


def quantize_tables(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each fp32 table that is only looked up by an int8 table and one scale per row, in place.

    Gather(table, ids) becomes Cast(Gather(int8 table, ids)) * Gather(scales, ids).
    """
    tables = {tensor.name: tensor for tensor in graph.graph.initializer if _is_table(tensor)}
    lookups = [node for node in graph.graph.node if node.op_type == "Gather" and node.input[0] in tables and not _axis(node)]
    for name in {node.input[0] for node in lookups}:
        users = [node for node in graph.graph.node if name in node.input]
        if all(node in lookups for node in users):
            _quantize_table(graph, tables[name], users)
    return graph


def quantize_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values and one scale per row, shapes (rows, width) and (rows, 1); value * scale is the table."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, largest / INT8_LIMIT, 1).astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


def _quantize_table(graph: onnx.ModelProto, tensor: TensorProto, lookups: list[onnx.NodeProto]) -> None:
    values, scales = quantize_rows(numpy_helper.to_array(tensor))
    name = tensor.name
    graph.graph.initializer.remove(tensor)
    graph.graph.initializer.append(numpy_helper.from_array(values, f"{name}_int8"))
    graph.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scales"))
    for lookup in lookups:
        place = list(graph.graph.node).index(lookup)
        ids, output = lookup.input[1], lookup.output[0]
        replacement = [
            helper.make_node("Gather", [f"{name}_int8", ids], [f"{output}_int8"]),
            helper.make_node("Cast", [f"{output}_int8"], [f"{output}_cast"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scales", ids], [f"{output}_scales"]),
            helper.make_node("Mul", [f"{output}_cast", f"{output}_scales"], [output]),
        ]
        graph.graph.node.remove(lookup)
        for offset, node in enumerate(replacement):
            graph.graph.node.insert(place + offset, node)


def _is_table(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and tensor.dims[0] > 1


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
