"""The linear layers of an ONNX graph: `x @ weights + bias` with constant weights, the part of a graph that becomes int8."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MIN_WEIGHTS = 4096
"""Smaller layers stay fp32. The classification head is one: it costs no time, and its errors go straight into the logits."""


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer.

    Attributes:
        node: Its MatMul or Gemm.
        bias_node: The Add after a MatMul, which becomes part of the int8 layer; None without one.
        weights: Shape (inputs, outputs).
        bias: Shape (outputs,); zeros where the graph adds none.
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


def linear_layers(graph: onnx.ModelProto) -> list[LinearLayer]:
    """Return the linear layers that are large enough to quantize, in the order of the graph."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.graph.node:
        for name in node.input:
            readers[name].append(node)
    found = []
    for node in graph.graph.node:
        tensor = constants.get(node.input[1]) if node.op_type in {"MatMul", "Gemm"} else None
        if tensor is None or len(tensor.dims) != 2 or tensor.dims[0] * tensor.dims[1] < MIN_WEIGHTS:
            continue
        weights = numpy_helper.to_array(tensor)
        if node.op_type == "MatMul":
            found.append(_of_matmul(node, weights, readers[node.output[0]], constants))
        elif (layer := _of_gemm(node, weights, constants)) is not None:
            found.append(layer)
    return found


def linear_inputs(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the activations that int8 layers read, each once."""
    return list(dict.fromkeys(layer.input for layer in linear_layers(graph)))


def value_layers(graph: onnx.GraphProto, layers: Sequence[LinearLayer]) -> dict[str, LinearLayer]:
    """Return, by the name of each attention context that a layer reads, the layer that computes the attention values.

    The context is linear in the values, channel by channel. The step of each channel can therefore be divided out of the
    weights of the value layer, and no node is left to do it at run time.
    """
    producers = {output: node for node in graph.node for output in node.output}
    num_readers = Counter(name for node in graph.node for name in node.input)
    by_output = {layer.output: layer for layer in layers}
    found = {}
    for layer in layers:
        maker = by_output.get(_values_of_context(layer.input, producers, num_readers))
        if maker is not None and maker.weights.shape[1] == layer.weights.shape[0]:
            found[layer.input] = maker
    return found


def _values_of_context(context: str, producers: Mapping[str, onnx.NodeProto], num_readers: Mapping[str, int]) -> str:
    """Follow Reshape(Transpose?(MatMul(shares, Transpose(Reshape(values))))) back to the values; "" where it is not that."""
    name = context
    for op, is_optional, place in (
        ("Reshape", False, 0),
        ("Transpose", True, 0),
        ("MatMul", False, 1),
        ("Transpose", False, 0),
        ("Reshape", False, 0),
    ):
        node = producers.get(name)
        if node is None or num_readers[name] != 1:
            return ""
        if node.op_type == op:
            name = node.input[place]
        elif not is_optional:
            return ""
    return name if num_readers[name] == 1 else ""


def _of_matmul(
    node: onnx.NodeProto,
    weights: NDArray[np.float32],
    readers: Sequence[onnx.NodeProto],
    constants: Mapping[str, TensorProto],
) -> LinearLayer:
    if len(readers) == 1 and readers[0].op_type == "Add":
        other = next(name for name in readers[0].input if name != node.output[0])
        if other in constants and list(constants[other].dims) == [weights.shape[1]]:
            return LinearLayer(node, readers[0], weights, numpy_helper.to_array(constants[other]))
    return LinearLayer(node, None, weights, np.zeros(weights.shape[1], dtype=np.float32))


def _of_gemm(node: onnx.NodeProto, weights: NDArray[np.float32], constants: Mapping[str, TensorProto]) -> LinearLayer | None:
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    bias_name = node.input[2] if len(node.input) > 2 else ""
    is_scaled = (settings.get("alpha", 1.0), settings.get("beta", 1.0)) != (1.0, 1.0)
    if settings.get("transA") or is_scaled or (bias_name and bias_name not in constants):
        return None
    weights = np.ascontiguousarray(weights.T) if settings.get("transB") else weights
    bias = numpy_helper.to_array(constants[bias_name]) if bias_name else np.zeros(1, dtype=np.float32)
    return LinearLayer(node, None, weights, np.broadcast_to(bias, weights.shape[1:]))
