"""int8 graphs from fp32 graphs: products with fixed activation scales, tables with a scale per row.

The usual dynamic quantization takes one activation scale for whatever is in the batch, so that a text's answer depends
on its batch-mates. Here each product's input has scales that were calibrated once, and a text's answer is its own.

Channels of BERT's activations differ in range by a hundred times, so one scale for all of them wastes most of the 8
bits. As in SmoothQuant (Xiao et al., 2023, equation 4) each channel is first divided by its own factor, which the weights
take up; each is also centred, which the bias takes up. Both are exact but for rounding, and together they more than halve
the error of the probabilities.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.calibration import ChannelRange

INT8_LIMIT = 127
ZERO_POINT = 128
MIGRATION = 0.8
"""SmoothQuant's alpha: how much of a channel's range goes from the activations into the weights."""

MIN_WEIGHTS = 4096
"""Smaller products stay fp32: the last layer weighs nothing and decides everything."""

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Product:
    """A product with constant weights.

    Attributes:
        node: The MatMul or Gemm.
        bias_node: The Add that follows a MatMul, which becomes part of the product; None for a Gemm.
        weights: Shape (inputs, outputs).
        bias: Shape (outputs,).
    """

    node: onnx.NodeProto
    bias_node: onnx.NodeProto | None
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def input(self) -> str:
        """Name of the activations."""
        return str(self.node.input[0])

    @property
    def output(self) -> str:
        """Name of the result, bias included."""
        return str((self.bias_node or self.node).output[0])


@dataclass(frozen=True)
class InputScales:
    """How a product's input becomes bytes: q = round(x / step - shift) + 128, so x is about (q - 128 + shift) * step.

    Attributes:
        step: Size of one step of each channel, shape (inputs,).
        shift: Whole steps from 0 to the middle of each channel's range, shape (inputs,).
    """

    step: NDArray[np.float32]
    shift: NDArray[np.float32]


def quantize(graph: onnx.ModelProto, ranges: Mapping[str, ChannelRange]) -> onnx.ModelProto:
    """Return the int8 graph of an fp32 graph; the given one stays as it is.

    Args:
        graph: The fp32 graph.
        ranges: For each of `product_inputs(graph)`, the values it takes.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(graph)
    products = find_products(quantized)
    sharing: dict[str, list[Product]] = defaultdict(list)
    for product in products:
        sharing[product.input].append(product)
    scales = {name: input_scales(ranges[name], [user.weights for user in users]) for name, users in sharing.items()}
    _replace_products(quantized.graph, products, scales)
    quantize_tables(quantized)
    _drop_unused(quantized.graph)
    if all(entry.domain != MICROSOFT for entry in quantized.opset_import):
        quantized.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return quantized


def product_inputs(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the activations that int8 products will read, each once."""
    return list(dict.fromkeys(product.input for product in find_products(graph)))


def find_products(graph: onnx.ModelProto) -> list[Product]:
    """Return the products that are worth quantizing, in the order of the graph."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.graph.node:
        for name in node.input:
            users[name].append(node)
    found = []
    for node in graph.graph.node:
        if node.op_type not in {"MatMul", "Gemm"} or node.input[1] not in constants:
            continue
        weights = numpy_helper.to_array(constants[node.input[1]])
        if weights.ndim != 2 or weights.size < MIN_WEIGHTS:
            continue
        product = _matmul(node, weights, users, constants) if node.op_type == "MatMul" else _gemm(node, weights, constants)
        if product is not None:
            found.append(product)
    return found


def input_scales(values: ChannelRange, weights: Sequence[NDArray[np.float32]]) -> InputScales:
    """Return the scales that share the error fairly between an input's channels and the weights they meet.

    Args:
        values: What the input's channels took, shape (inputs,).
        weights: The products that read this input, each of shape (inputs, outputs).
    """
    half_range = (values.high - values.low) / 2
    # A channel that never moved in calibration still needs a step. A higher floor costs the many small channels behind a
    # GELU their precision: at a hundredth of the largest range the answers were useless.
    half_range = np.maximum(half_range, max(float(half_range.max()), 1e-6) * 1e-5)
    largest_weight = np.maximum(np.max([np.abs(matrix).max(axis=1) for matrix in weights], axis=0), 1e-6)
    factor = half_range**MIGRATION / largest_weight ** (1 - MIGRATION)
    step = factor * (half_range / factor).max() / INT8_LIMIT
    step = step.astype(np.float32)
    # A whole number of steps, so that 0 stays 0: behind a GELU most values are near it, and an error they all share adds up.
    return InputScales(step=step, shift=np.rint((values.high + values.low) / 2 / step).astype(np.float32))


def quantize_columns(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 weights and one scale per output, shapes (inputs, outputs) and (outputs,)."""
    values, scales = quantize_rows(weights.T)
    return np.ascontiguousarray(values.T), scales[:, 0]


def quantize_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values and one scale per row, shapes (rows, width) and (rows, 1); value * scale is the table."""
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(INT8_LIMIT)
    scales = np.where(scales > 0, scales, np.float32(1))  # a row of nothing, or of numbers too small for any scale
    return np.rint(table / scales).astype(np.int8), scales


def quantize_tables(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each fp32 table that is only looked up by an int8 table and one scale per row, in place.

    Gather(table, ids) becomes Cast(Gather(int8 table, ids)) * Gather(scales, ids). A table that is sliced, as positions
    are, is small: it becomes fp32 again when the graph is loaded.
    """
    tables = {tensor.name: tensor for tensor in graph.graph.initializer if _is_table(tensor)}
    for name, tensor in tables.items():
        users = [node for node in graph.graph.node if name in node.input]
        if users and all(node.op_type == "Gather" and node.input[0] == name and not _axis(node) for node in users):
            _quantize_table(graph, tensor, users)
        elif users and all(node.op_type == "Slice" and node.input[0] == name for node in users):
            _quantize_at_rest(graph, tensor)
    return graph


def _replace_products(graph: onnx.GraphProto, products: Sequence[Product], scales: Mapping[str, InputScales]) -> None:
    product_of = {id(product.node): product for product in products}
    absorbed = {id(product.bias_node) for product in products if product.bias_node is not None}
    graph.initializer.append(numpy_helper.from_array(np.array(1, dtype=np.float32), "unit_scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(ZERO_POINT, dtype=np.uint8), "zero_point"))
    quantized_inputs: set[str] = set()
    kept: list[onnx.NodeProto] = []
    for node in list(graph.node):
        if id(node) in absorbed:
            continue
        product = product_of.get(id(node))
        if product is None:
            kept.append(node)
            continue
        if product.input not in quantized_inputs:
            quantized_inputs.add(product.input)
            kept += _input_nodes(graph, product.input, scales[product.input])
        kept.append(_product_node(graph, product, scales[product.input]))
    replacements = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(replacements)


def _input_nodes(graph: onnx.GraphProto, name: str, scales: InputScales) -> list[onnx.NodeProto]:
    # Two elementwise ops and a scalar QuantizeLinear: with a scale per channel that op takes a path ten times slower.
    graph.initializer.append(numpy_helper.from_array(1 / scales.step, f"{name}_factor"))
    graph.initializer.append(numpy_helper.from_array(-scales.shift, f"{name}_offset"))
    return [
        helper.make_node("Mul", [name, f"{name}_factor"], [f"{name}_scaled"]),
        helper.make_node("Add", [f"{name}_scaled", f"{name}_offset"], [f"{name}_centred"]),
        helper.make_node("QuantizeLinear", [f"{name}_centred", "unit_scale", "zero_point"], [f"{name}_uint8"]),
    ]


def _product_node(graph: onnx.GraphProto, product: Product, scales: InputScales) -> onnx.NodeProto:
    values, column_scales = quantize_columns(product.weights * scales.step[:, None])
    # With the quantized weights, not the exact ones: the two terms of a value near 0 must cancel to the last bit.
    bias = (product.bias + scales.shift.astype(np.float64) @ values * column_scales).astype(np.float32)
    name = product.output
    graph.initializer.append(numpy_helper.from_array(values, f"{name}_weights_int8"))
    graph.initializer.append(numpy_helper.from_array(column_scales, f"{name}_weights_scales"))
    graph.initializer.append(numpy_helper.from_array(bias, f"{name}_bias"))
    inputs = [
        f"{product.input}_uint8",
        f"{name}_weights_int8",
        "unit_scale",
        f"{name}_weights_scales",
        "zero_point",
        "",
        f"{name}_bias",
    ]
    return helper.make_node("MatMulIntegerToFloat", inputs, [name], domain=MICROSOFT)


def _matmul(
    node: onnx.NodeProto,
    weights: NDArray[np.float32],
    users: Mapping[str, list[onnx.NodeProto]],
    constants: Mapping[str, TensorProto],
) -> Product:
    followers = users[node.output[0]]
    if len(followers) == 1 and followers[0].op_type == "Add":
        other = next(name for name in followers[0].input if name != node.output[0])
        if other in constants and list(constants[other].dims) == [weights.shape[1]]:
            return Product(node, followers[0], weights, numpy_helper.to_array(constants[other]))
    return Product(node, None, weights, np.zeros(weights.shape[1], dtype=np.float32))


def _gemm(node: onnx.NodeProto, weights: NDArray[np.float32], constants: Mapping[str, TensorProto]) -> Product | None:
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if settings.get("transA") or settings.get("alpha", 1.0) != 1.0 or settings.get("beta", 1.0) != 1.0:
        return None
    if settings.get("transB"):
        weights = np.ascontiguousarray(weights.T)
    bias = np.zeros(weights.shape[1], dtype=np.float32)
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in constants:
            return None
        bias = numpy_helper.to_array(constants[node.input[2]])
    return Product(node, None, weights, np.broadcast_to(bias, weights.shape[1:]))


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


def _quantize_at_rest(graph: onnx.ModelProto, tensor: TensorProto) -> None:
    """Store a table in int8; ONNX Runtime computes the two nodes once, at load."""
    values, scales = quantize_rows(numpy_helper.to_array(tensor))
    name = tensor.name
    graph.graph.initializer.remove(tensor)
    graph.graph.initializer.append(numpy_helper.from_array(values, f"{name}_int8"))
    graph.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scales"))
    graph.graph.node.insert(0, helper.make_node("Mul", [f"{name}_cast", f"{name}_scales"], [name]))
    graph.graph.node.insert(0, helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=TensorProto.FLOAT))


def _drop_unused(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _is_table(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and tensor.dims[0] > 1


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
