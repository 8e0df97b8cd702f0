"""int8 graphs from fp32 graphs: products with fixed activation scales, tables with a scale per row.

The usual dynamic quantization takes one activation scale for whatever is in the batch, so that a text's answer depends
on its batch-mates. Here each product's input has scales that were calibrated once, and a text's answer is its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from distill.scales import INT8_LIMIT, ChannelRange, InputScales, input_scales, quantize_columns
from export.int8.embeddings import MICROSOFT, quantize_tables
from export.settings import ActivationScales, EmbeddingPrecision

MIN_WEIGHTS = 4096
"""Smaller products stay fp32: the last layer weighs nothing and decides everything."""


@dataclass(frozen=True)
class Quantization:
    """How a graph is quantized.

    Attributes:
        weight_limit: Largest absolute value of an int8 weight: 127, or 63 where 16-bit sums could saturate.
        activations: `fixed` scales were calibrated, and a text's answer is its own; `dynamic` ones are found in each batch.
        embeddings: Numeric form of the tables.
        keep: Outputs of products that stay fp32.
    """

    weight_limit: int = INT8_LIMIT
    activations: ActivationScales = "fixed"
    embeddings: EmbeddingPrecision = "int8"
    keep: frozenset[str] = frozenset()


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


def quantize(
    graph: onnx.ModelProto, ranges: Mapping[str, ChannelRange | InputScales], how: Quantization = Quantization()
) -> onnx.ModelProto:
    """Return the int8 graph of an fp32 graph; the given one stays as it is.

    Args:
        graph: The fp32 graph.
        ranges: For each of `product_inputs(graph)`, the values it takes, or its scales where they are known; not looked at
            where scales are dynamic.
        how: Which form everything takes.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(graph)
    products = [product for product in find_products(quantized) if product.output not in how.keep]
    if how.activations == "dynamic":
        rewritten = {product.output: [_dynamic_node(quantized.graph, product, how)] for product in products}
    else:
        rewritten = _fixed_nodes(quantized.graph, products, ranges, how)
    _replace_products(quantized.graph, products, rewritten)
    quantize_tables(quantized, how.embeddings)
    _drop_unused(quantized.graph)
    if all(entry.domain != MICROSOFT for entry in quantized.opset_import):
        quantized.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return quantized


def product_inputs(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the activations that int8 products will read, each once."""
    return list(dict.fromkeys(product.input for product in find_products(graph)))


def scales_of_graph(graph: onnx.ModelProto, ranges: Mapping[str, ChannelRange]) -> dict[str, InputScales]:
    """Return the scales of every product's input, from the values it takes and the weights it meets."""
    products = find_products(graph)
    return {name: _scales_of(ranges[name], [each for each in products if each.input == name]) for name in ranges}


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


def _fixed_nodes(
    graph: onnx.GraphProto,
    products: Sequence[Product],
    ranges: Mapping[str, ChannelRange | InputScales],
    how: Quantization,
) -> dict[str, list[onnx.NodeProto]]:
    """Return, by each product's output, the nodes that take its place; the first reader of an input makes its bytes."""
    sharing: dict[str, list[Product]] = defaultdict(list)
    for product in products:
        sharing[product.input].append(product)
    scales = {name: _scales_of(ranges[name], users) for name, users in sharing.items()}
    makers = value_products(graph, products)
    divided = {makers[name].output: scales[name].step for name in scales if name in makers}
    graph.initializer.append(numpy_helper.from_array(np.array(1, dtype=np.float32), "unit_scale"))
    nodes: dict[str, list[onnx.NodeProto]] = {}
    for product in products:
        first = sharing[product.input][0] is product
        before = _input_nodes(graph, product.input, scales[product.input], is_divided=product.input in makers) if first else []
        nodes[product.output] = [*before, _fixed_node(graph, product, scales[product.input], divided.get(product.output), how)]
    return nodes


def _scales_of(given: ChannelRange | InputScales, readers: Sequence[Product]) -> InputScales:
    return given if isinstance(given, InputScales) else input_scales(given, [reader.weights for reader in readers])


def value_products(graph: onnx.GraphProto, products: Sequence[Product]) -> dict[str, Product]:
    """Return, for each mix of attention values that a product reads, the product that makes these values.

    A mix is linear in its values channel by channel, so its channels' steps can be divided out of the values' weights: no
    node is left of them at run time.
    """
    producers = {output: node for node in graph.node for output in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    by_output = {product.output: product for product in products}
    found = {}
    for product in products:
        maker = by_output.get(_values_behind(product.input, producers, readers))
        if maker is not None and maker.weights.shape[1] == product.weights.shape[0]:
            found[product.input] = maker
    return found


def _values_behind(mix: str, producers: Mapping[str, onnx.NodeProto], readers: Mapping[str, int]) -> str:
    """Follow Reshape(Transpose?(MatMul(shares, Transpose(Reshape(values))))) back to the values; "" is no such thing."""
    name = mix
    for op, optional, place in (
        ("Reshape", 0, 0),
        ("Transpose", 1, 0),
        ("MatMul", 0, 1),
        ("Transpose", 0, 0),
        ("Reshape", 0, 0),
    ):
        node = producers.get(name)
        if node is None or readers[name] != 1:
            return ""
        if node.op_type == op:
            name = node.input[place]
        elif not optional:
            return ""
    return name if readers[name] == 1 else ""


def _input_nodes(graph: onnx.GraphProto, name: str, scales: InputScales, *, is_divided: bool) -> list[onnx.NodeProto]:
    # A multiplication and a scalar QuantizeLinear: with a scale per channel that op takes a path forty times slower.
    graph.initializer.append(numpy_helper.from_array(np.array(scales.zero_point, dtype=np.uint8), f"{name}_zero_point"))
    quantizing = helper.make_node("QuantizeLinear", [name, "unit_scale", f"{name}_zero_point"], [f"{name}_uint8"])
    if is_divided:
        return [quantizing]
    quantizing.input[0] = f"{name}_scaled"
    graph.initializer.append(numpy_helper.from_array(1 / scales.step, f"{name}_factor"))
    return [helper.make_node("Mul", [name, f"{name}_factor"], [f"{name}_scaled"]), quantizing]


def _fixed_node(
    graph: onnx.GraphProto, product: Product, scales: InputScales, divisor: NDArray[np.float32] | None, how: Quantization
) -> onnx.NodeProto:
    """Return the product of bytes; its outputs divided, where another product's input wants them so."""
    divided = product if divisor is None else replace(product, weights=product.weights / divisor, bias=product.bias / divisor)
    scaled = replace(divided, weights=divided.weights * scales.step[:, None])
    weights, column_scales, bias = _weight_constants(graph, scaled, how)
    inputs = [f"{product.input}_uint8", weights, "unit_scale", column_scales, f"{product.input}_zero_point", "", bias]
    return helper.make_node("MatMulIntegerToFloat", inputs, [product.output], domain=MICROSOFT)


def _dynamic_node(graph: onnx.GraphProto, product: Product, how: Quantization) -> onnx.NodeProto:
    weights, column_scales, bias = _weight_constants(graph, product, how)
    inputs = [product.input, weights, column_scales, "", bias]
    return helper.make_node("DynamicQuantizeMatMul", inputs, [product.output], domain=MICROSOFT)


def _weight_constants(graph: onnx.GraphProto, product: Product, how: Quantization) -> tuple[str, str, str]:
    values, scales = quantize_columns(product.weights, limit=how.weight_limit)
    constants: dict[str, NDArray[Any]] = {"weights_int8": values, "weights_scales": scales, "bias": product.bias}
    graph.initializer.extend(numpy_helper.from_array(value, f"{product.output}_{name}") for name, value in constants.items())
    weights, column_scales, bias = (f"{product.output}_{name}" for name in constants)
    return weights, column_scales, bias


def _replace_products(
    graph: onnx.GraphProto, products: Sequence[Product], rewritten: Mapping[str, list[onnx.NodeProto]]
) -> None:
    product_of = {id(product.node): product for product in products}
    absorbed = {id(product.bias_node) for product in products if product.bias_node is not None}
    kept: list[onnx.NodeProto] = []
    for node in list(graph.node):
        if id(node) not in absorbed:
            kept += rewritten[product_of[id(node)].output] if id(node) in product_of else [node]
    replacements = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(replacements)


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


def _drop_unused(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
