"""What a graph may contain before ONNX Runtime sees it: the ops of our writers, its own weights, and no subgraphs.

A graph is data, but data that runs. Of an ONNX file this leaves what a classifier needs: no files beside it, no functions, no
loops and branches, no op that our writers do not write, and no tensor that declares more values than the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from distill.errors import BundleError
from export.runtime.wire import Schema, parse, text_of, whole_numbers

MICROSOFT: Final = "com.microsoft"
"""Domain of the ops that are ONNX Runtime's own."""

_STANDARD: Final = (
    "Abs Add And Cast Ceil Clip Concat Constant ConstantOfShape Conv Cos CumSum DFT Div Equal Erf Expand Flatten Gather "
    "GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity IsNaN LayerNormalization Less LessOrEqual Log MatMul "
    "Max Min Mul Neg Not Pad Pow QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceSum Relu Reshape Shape Sigmoid "
    "Sign Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where"
)

OPS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(_STANDARD.split()),
    MICROSOFT: frozenset({"DynamicQuantizeMatMul", "FastGelu", "GatherBlockQuantized", "Gelu", "MatMulIntegerToFloat"}),
}
"""Ops by domain: those of the graphs that `potstill export` writes. `ai.onnx` is another name of the first domain."""

MAX_NODES: Final = 50_000
MAX_ELEMENTS: Final = 2**31 - 1
"""Values of one tensor, declared or made from a constant shape."""
MAX_ATTRIBUTE: Final = 2**20
"""Largest whole number in an attribute: axes, types and windows are small."""

# Which inputs are sizes, of ops whose output can be larger than their other inputs.
_SIZE_INPUTS: Final = {"ConstantOfShape": (0,), "Expand": (1,), "Pad": (1,), "Range": (0, 1, 2), "Tile": (1,)}
_MAX_SIZES: Final = 16
_EVERYTHING: Final = (-(2**63), 2**63 - 1)  # ends of slices
_INT64: Final = 7
_VALUES_PER_BYTE: Final = 4  # of the narrowest type

# The messages of ONNX with the fields that our writers use. What is not here is refused: functions and training information of
# a model, sparse tensors, subgraphs in attributes, strings in tensors and, with `external_data`, tensors in other files.
_PROPERTY: Final[Schema] = {1: ("key", None), 2: ("value", None)}
_DIM: Final[Schema] = {1: ("value", None), 2: ("name", None), 3: ("denotation", None)}
_TENSOR_TYPE: Final[Schema] = {1: ("element", None), 2: ("shape", {1: ("dim", _DIM)})}
_VALUE: Final[Schema] = {
    1: ("name", None),
    2: ("type", {1: ("tensor", _TENSOR_TYPE), 6: ("denotation", None)}),
    3: ("doc", None),
    4: ("property", _PROPERTY),
}
_TENSOR: Final[Schema] = {
    1: ("dims", None),
    2: ("type", None),
    **dict.fromkeys((4, 5, 10, 11), ("data", None)),
    7: ("int64s", None),
    8: ("name", None),
    9: ("raw", None),
    12: ("doc", None),
    14: ("location", None),
    16: ("property", _PROPERTY),
}
_ATTRIBUTE: Final[Schema] = {
    1: ("name", None),
    2: ("float", None),
    3: ("ints", None),
    4: ("string", None),
    5: ("tensor", _TENSOR),
    7: ("floats", None),
    8: ("ints", None),
    9: ("strings", None),
    13: ("doc", None),
    20: ("type", None),
}
_NODE: Final[Schema] = {
    1: ("input", None),
    2: ("output", None),
    3: ("name", None),
    4: ("op", None),
    5: ("attribute", _ATTRIBUTE),
    6: ("doc", None),
    7: ("domain", None),
    9: ("property", _PROPERTY),
}
_GRAPH: Final[Schema] = {
    1: ("node", _NODE),
    2: ("name", None),
    5: ("tensor", _TENSOR),
    10: ("doc", None),
    **dict.fromkeys((11, 12, 13), ("value", _VALUE)),
    16: ("property", _PROPERTY),
}
_MODEL: Final[Schema] = {
    **dict.fromkeys((1, 2, 3, 4, 5, 6), ("about", None)),
    7: ("graph", _GRAPH),
    8: ("opset", {1: ("domain", None), 2: ("version", None)}),
    14: ("property", _PROPERTY),
}


def require_runnable(graph: bytes) -> None:
    """Refuse a graph with anything in it that `potstill export` does not write.

    Sizes that a graph computes while it runs are not known before, and not bounded.

    Raises:
        BundleError: It is not an ONNX graph, refers to other files, has subgraphs, functions or an op outside `OPS`, or
            declares tensors that are larger than the file.
    """
    model = parse(memoryview(graph), _MODEL)
    for opset in model["opset"]:
        _require_domain(text_of(opset, "domain"))
    if any(text_of(each, "key") == "ort_config" for each in model["property"]):
        raise BundleError("it has session options for ONNX Runtime in its metadata")
    if len(model["graph"]) != 1:
        raise BundleError(f"it has {len(model['graph'])} graphs, expected 1")
    (whole,) = model["graph"]
    if not 0 < len(whole["node"]) <= MAX_NODES:
        raise BundleError(f"it has {len(whole['node']):,} nodes, expected 1 to {MAX_NODES:,}")
    for value in whole["value"]:
        for form in value["type"]:
            _require_bounded("a declared shape", _declared(form))
    constants = [(text_of(each, "name"), _checked_values(each)) for each in whole["tensor"]]
    constants += [(name, values) for node in whole["node"] for name, values in _checked_node(node)]
    _require_bounded_outputs(whole["node"], constants)


def _checked_node(node: Mapping[str, list[Any]]) -> list[tuple[str, list[int]]]:
    """Check the op and the attributes of a node; of a constant, return its names and its values that could be sizes."""
    op, domain = text_of(node, "op"), text_of(node, "domain")
    _require_domain(domain)
    if op not in OPS["" if domain == "ai.onnx" else domain]:
        raise BundleError(f"it has the op {domain}{':' if domain else ''}{op[:100]}, which no graph of `potstill export` has")
    numbers = whole_numbers([value for attribute in node["attribute"] for value in attribute["ints"]])
    if any(abs(number) > MAX_ATTRIBUTE for number in numbers if number not in _EVERYTHING):
        raise BundleError(f"an attribute of {op} has {max(map(abs, numbers)):,}, expected at most {MAX_ATTRIBUTE:,}")
    for attribute in node["attribute"]:
        for tensor in attribute["tensor"]:
            numbers += _checked_values(tensor)
    return [(name, numbers) for name in _names(node["output"])] if op == "Constant" else []


def _require_bounded_outputs(nodes: Sequence[Mapping[str, list[Any]]], constants: Sequence[tuple[str, list[int]]]) -> None:
    """Refuse a node that makes a huge tensor of a constant size."""
    sizes = dict(constants)
    if len(sizes) != len(constants):
        raise BundleError("it has two tensors with one name")
    for node in nodes:
        op, inputs = text_of(node, "op"), _names(node["input"])
        for place in _SIZE_INPUTS.get(op, ()):
            if place < len(inputs):
                _require_bounded(f"{op} {inputs[place][:100]!r}", sizes.get(inputs[place], ()))


def _names(values: Sequence[Any]) -> list[str]:
    return [text_of({"name": [value]}, "name") for value in values]


def _checked_values(tensor: Mapping[str, list[Any]]) -> list[int]:
    """Check a tensor; return its values if they could be sizes: a few whole numbers of 64 bits."""
    name, dims = text_of(tensor, "name")[:100], whole_numbers(tensor["dims"])
    if any(tensor["location"]):
        raise BundleError(f"its tensor {name!r} is in another file")
    _require_bounded(f"tensor {name!r}", dims)
    held = sum(8 if isinstance(part, int) else len(part) for part in (*tensor["data"], *tensor["int64s"], *tensor["raw"]))
    if math.prod(dims) > held * _VALUES_PER_BYTE:
        raise BundleError(f"its tensor {name!r} declares {math.prod(dims):,} values and has {held:,} bytes")
    if tensor["type"][-1:] != [_INT64] or math.prod(dims) > _MAX_SIZES:
        return []
    raw = [number for part in tensor["raw"] if not len(part) % 8 for number in part.cast("q")]
    return whole_numbers(tensor["int64s"]) + raw


def _declared(form: Mapping[str, list[Any]]) -> list[int]:
    dims = [dim for tensor in form["tensor"] for shape in tensor["shape"] for dim in shape["dim"]]
    return whole_numbers([value for dim in dims for value in dim["value"]])


def _require_bounded(what: str, sizes: Sequence[int]) -> None:
    if math.prod(max(1, abs(size)) for size in sizes if size not in _EVERYTHING) > MAX_ELEMENTS:
        raise BundleError(f"{what} has the sizes {list(sizes)}, more than {MAX_ELEMENTS:,} values")


def _require_domain(domain: str) -> None:
    if domain not in ("ai.onnx", *OPS):
        raise BundleError(f"it has ops of the domain {domain[:100]!r}, expected ai.onnx or {MICROSOFT}")
