"""Changing an ONNX graph in place: adding constants and replacing nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def add_constants(graph: onnx.GraphProto, constants: Mapping[str, NDArray[Any]]) -> list[str]:
    """Add constants to a graph and return their names."""
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return list(constants)


def replace_nodes(graph: onnx.GraphProto, replacements: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Put other nodes, or none, in the place of each node whose first output is a key."""
    nodes = [each for node in graph.node for each in replacements.get(node.output[0], [node])]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # the next line empties the originals
    del graph.node[:]
    graph.node.extend(copies)
