"""int8 graphs from fp32 graphs: linear layers with int8 weights and byte inputs, embedding tables with a scale per row.

Stock dynamic quantization takes one activation scale for the whole batch, so that the answer to a text depends on the other
texts of its batch. Here the scales of each input are fixed once; see `docs/project/decisions/static-int8.md`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from distill.scales import INT8_LIMIT, ChannelRange, InputScales, input_scales, quantize_columns
from export.int8.editing import add_constants, replace_nodes
from export.int8.embeddings import quantize_tables
from export.int8.linear import LinearLayer, linear_layers, value_layers
from export.runtime.graph_limits import MICROSOFT
from export.settings import ActivationScales, EmbeddingPrecision

Nodes = dict[str, list[onnx.NodeProto]]
"""By the output of a node of a linear layer, its MatMul, Gemm or Add, the nodes that replace it."""


@dataclass(frozen=True)
class Quantization:
    """A form of int8 graph.

    Attributes:
        weight_limit: Largest absolute value of an int8 weight: 127, or 63 where sums of 16 bits could saturate.
        activations: `fixed` scales are known before; `dynamic` ones are computed from each batch.
        embeddings: Precision of the embedding tables.
        keep: Outputs of linear layers that stay fp32.
    """

    weight_limit: int = INT8_LIMIT
    activations: ActivationScales = "fixed"
    embeddings: EmbeddingPrecision = "int8"
    keep: frozenset[str] = frozenset()


def quantize(
    graph: onnx.ModelProto, ranges: Mapping[str, ChannelRange | InputScales], how: Quantization = Quantization()
) -> onnx.ModelProto:
    """Return the int8 graph of an fp32 graph, which is not changed.

    Args:
        graph: The fp32 graph.
        ranges: For each of `linear_inputs(graph)` its scales, or the range of its values; not used with dynamic scales.
        how: The form of the result.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(graph)
    layers = [layer for layer in linear_layers(quantized) if layer.output not in how.keep]
    nodes: Nodes = {layer.bias_node.output[0]: [] for layer in layers if layer.bias_node is not None}
    if how.activations == "dynamic":
        nodes |= {layer.node.output[0]: [_dynamic_layer(quantized.graph, layer, how)] for layer in layers}
    else:
        nodes |= _fixed_layers(quantized.graph, layers, ranges, how)
    replace_nodes(quantized.graph, nodes)
    quantize_tables(quantized, how.embeddings)
    _drop_unused(quantized.graph)
    if all(entry.domain != MICROSOFT for entry in quantized.opset_import):
        quantized.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return quantized


def scales_of_graph(graph: onnx.ModelProto, ranges: Mapping[str, ChannelRange]) -> dict[str, InputScales]:
    """Return the scales of each input in `ranges`, from its values and the weights of the layers that read it."""
    layers = linear_layers(graph)
    return {name: _scales_of(ranges[name], [each for each in layers if each.input == name]) for name in ranges}


def _scales_of(known: ChannelRange | InputScales, readers: Sequence[LinearLayer]) -> InputScales:
    return known if isinstance(known, InputScales) else input_scales(known, [reader.weights for reader in readers])


def _fixed_layers(
    graph: onnx.GraphProto,
    layers: Sequence[LinearLayer],
    ranges: Mapping[str, ChannelRange | InputScales],
    how: Quantization,
) -> Nodes:
    """Return int8 layers with fixed scales; the first layer that reads an input comes with the nodes that quantize it."""
    readers: dict[str, list[LinearLayer]] = defaultdict(list)
    for layer in layers:
        readers[layer.input].append(layer)
    scales = {name: _scales_of(ranges[name], sharing) for name, sharing in readers.items()}
    makers = value_layers(graph, layers)
    divisors = {maker.output: scales[name].step for name, maker in makers.items()}
    add_constants(graph, {"unit_scale": np.array(1, dtype=np.float32)})
    nodes: Nodes = {layer.node.output[0]: [] for layer in layers}
    for name, (first, *_) in readers.items():
        nodes[first.node.output[0]] += _quantized_input(graph, name, scales[name], is_divided=name in makers)
    for layer in layers:
        divisor = divisors.get(layer.output)
        nodes[layer.node.output[0]].append(_fixed_layer(graph, layer, scales[layer.input], divisor, how))
    return nodes


def _quantized_input(graph: onnx.GraphProto, name: str, scales: InputScales, *, is_divided: bool) -> list[onnx.NodeProto]:
    # A Mul and a scalar QuantizeLinear: with a scale per channel, QuantizeLinear takes a code path forty times slower.
    add_constants(graph, {f"{name}_zero_point": np.array(scales.zero_point, dtype=np.uint8)})
    quantizing = helper.make_node("QuantizeLinear", [name, "unit_scale", f"{name}_zero_point"], [f"{name}_uint8"])
    if is_divided:
        return [quantizing]
    quantizing.input[0] = f"{name}_scaled"
    add_constants(graph, {f"{name}_factor": 1 / scales.step})
    return [helper.make_node("Mul", [name, f"{name}_factor"], [f"{name}_scaled"]), quantizing]


def _fixed_layer(
    graph: onnx.GraphProto, layer: LinearLayer, scales: InputScales, divisor: NDArray[np.float32] | None, how: Quantization
) -> onnx.NodeProto:
    """Return the int8 layer; its outputs are divided by the steps of the input that they become, where there is a divisor."""
    by = np.float32(1) if divisor is None else divisor
    scaled = replace(layer, weights=layer.weights / by * scales.step[:, None], bias=layer.bias / by)
    weights, column_scales, bias = _weight_constants(graph, scaled, how)
    inputs = [f"{layer.input}_uint8", weights, "unit_scale", column_scales, f"{layer.input}_zero_point", "", bias]
    return helper.make_node("MatMulIntegerToFloat", inputs, [layer.output], domain=MICROSOFT)


def _dynamic_layer(graph: onnx.GraphProto, layer: LinearLayer, how: Quantization) -> onnx.NodeProto:
    weights, column_scales, bias = _weight_constants(graph, layer, how)
    inputs = [layer.input, weights, column_scales, "", bias]
    return helper.make_node("DynamicQuantizeMatMul", inputs, [layer.output], domain=MICROSOFT)


def _weight_constants(graph: onnx.GraphProto, layer: LinearLayer, how: Quantization) -> list[str]:
    """Add the int8 weights, their scales and the bias to the graph and return the three names."""
    values, scales = quantize_columns(layer.weights, limit=how.weight_limit)
    name = layer.output
    return add_constants(graph, {f"{name}_weights_int8": values, f"{name}_weights_scales": scales, f"{name}_bias": layer.bias})


def _drop_unused(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
