"""The fused writer: the graph of a BERT-family classifier, written from its weights with the ops that measured fastest.

Nothing is traced, so no pattern has to be recognised and fused later. The writer does two things that an exporter cannot: the
last layer computes only what the first token needs, and positions and mask cost a node or two each.
docs/project/decisions/graph-writers.md has the measurements behind the choice of ops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from distill.models.torch_classifier import TorchClassifier
from distill.tokenization import INPUT_NAMES, TYPE_INPUT
from export.graph.encoder import Activation, Dense, Encoder, Layer, Norm, read_encoder
from export.graph.portable import OUTPUT_NAME
from export.runtime.graph_limits import MICROSOFT

# LayerNormalization needs opset 17, and nothing here needs a later one; IR 8 belongs to that opset.
FUSED_OPSET = 17
IR_VERSION = 8
MASKED = -1e9
"""Added to the attention score of a padding token, so that its attention weight is exactly 0."""


def write_fused_graph(classifier: TorchClassifier) -> onnx.ModelProto:
    """Return the fp32 graph, weights inside, both input axes symbolic ("batch", "length").

    Raises:
        SettingsError: The model is not of the BERT family, or has a part that this writer does not know.
    """
    encoder = read_encoder(classifier)
    writer = _Writer()
    ids, mask = INPUT_NAMES
    hidden = _embeddings(writer, encoder, ids)
    bias = _attention_bias(writer, encoder, ids, mask)
    for number, layer in enumerate(encoder.layers):
        is_last = number == len(encoder.layers) - 1
        hidden = _layer(writer, encoder, layer, f"layer.{number}", hidden, bias, first_token_only=is_last)
    inner = writer.dense(hidden, encoder.hidden_head, "head.inner")
    active = _activate(writer, inner, encoder.head_activation, "head.active")
    writer.dense(active, encoder.head, "head", output=OUTPUT_NAME)
    return writer.model(inputs=classifier.tokenizer.input_names, num_labels=encoder.head.bias.size)


def expected_ops(graph: onnx.ModelProto) -> Counter[str]:
    """Count the ops that cost time and must remain after ONNX Runtime has optimized the graph.

    Its own fusions (`SkipLayerNormalization`, `Attention`) are slower than the ops they replace.
    """
    written = Counter(node.op_type for node in graph.graph.node)
    return Counter({op: written[op] for op in ("LayerNormalization", "Softmax", "SkipLayerNormalization", "Attention")})


def _embeddings(writer: _Writer, encoder: Encoder, ids: str) -> str:
    words = writer.add("Gather", [writer.constant("words", encoder.words), ids], "words.looked_up")
    if encoder.sees_neighbours:
        words = _beside_neighbours(writer, words)
    if encoder.word_projection is not None:
        words = writer.dense(words, encoder.word_projection, "words.projection")
    table = writer.constant("positions", encoder.positions)
    if encoder.padding_id is None:
        positions = writer.add("Slice", [table, *_up_to_length(writer, ids)], "positions.looked_up")
    else:
        positions = writer.add(
            "Gather", [table, _positions_from_padding(writer, ids, encoder.padding_id)], "positions.looked_up"
        )
    added = writer.add("Add", [words, positions], "embedding.sum")
    if encoder.types is not None:
        types = writer.add("Gather", [writer.constant("types", encoder.types), TYPE_INPUT], "types.looked_up")
        added = writer.add("Add", [added, types], "embedding.with_types")
    hidden = writer.norm(added, encoder.embedding_norm, "embedding")
    return hidden if encoder.projection is None else writer.dense(hidden, encoder.projection, "embedding.projection")


def _beside_neighbours(writer: _Writer, words: str) -> str:
    """Concatenate the vectors of the next token, of each token and of the previous token; zeros beyond the ends."""
    wider = writer.add("Pad", [words, writer.integers("one_on_each_side", [0, 1, 0, 0, 1, 0])], "words.wider")
    axis, far = writer.integers("axis_1_alone", [1]), writer.integers("far", [np.iinfo(np.int64).max])
    following = writer.add("Slice", [wider, writer.integers("from_2", [2]), far, axis], "words.next")
    before = writer.add("Slice", [wider, writer.integers("zero", [0]), writer.integers("to_2", [-2]), axis], "words.before")
    return writer.add("Concat", [following, words, before], "words.windows", axis=2)


def _positions_from_padding(writer: _Writer, ids: str, padding_id: int) -> str:
    """Return the position ids of RoBERTa: padding_id plus the number of real tokens so far; padding has padding_id."""
    padding = writer.integers("padding_id", padding_id)
    is_padding = writer.add("Equal", [ids, padding], "is_padding")
    real = writer.add("Cast", [writer.add("Not", [is_padding], "is_real")], "real", to=TensorProto.INT64)
    counted = writer.add("CumSum", [real, writer.integers("axis_1", 1)], "counted")
    return writer.add("Add", [writer.add("Mul", [counted, real], "counted.real"), padding], "position_ids")


def _attention_bias(writer: _Writer, encoder: Encoder, ids: str, mask: str) -> str:
    """Return the bias of the attention scores, shape (batch, 1, 1, length); with distances (batch, heads, length, length)."""
    # The mask is the index, 0 or 1: one node, where arithmetic would take three.
    of_mask = writer.add("Gather", [writer.constant("mask_bias", np.array([MASKED, 0], dtype=np.float32)), mask], "mask.bias")
    bias = writer.add("Unsqueeze", [of_mask, writer.integers("axes_1_2", [1, 2])], "attention.bias")
    if encoder.relative is None:
        return bias
    return writer.add("Add", [_distance_bias(writer, encoder.relative, ids), bias], "attention.bias.all")


def _distance_bias(writer: _Writer, by_distance: NDArray[np.float32], ids: str) -> str:
    """Return the bias of every pair of positions, shape (heads, length, length)."""
    numbers = np.arange((by_distance.shape[0] + 1) // 2, dtype=np.int64)
    cut = _up_to_length(writer, ids)
    columns = writer.add("Slice", [writer.constant("columns.all", numbers), *cut], "columns")
    rows = writer.add("Slice", [writer.constant("rows.all", (numbers[-1] - numbers)[:, None]), *cut], "rows")
    pairs = [writer.constant("distances", by_distance), writer.add("Add", [rows, columns], "pairs")]
    return writer.add("Transpose", [writer.add("Gather", pairs, "pairs.bias")], "pairs.bias.by_head", perm=[2, 0, 1])


def _layer(
    writer: _Writer, encoder: Encoder, layer: Layer, name: str, hidden: str, bias: str, *, first_token_only: bool
) -> str:
    """Return the layer's output: shape (batch, length, width), or (batch, width) for the first token only."""
    asking = hidden
    if first_token_only:
        asking = writer.add("Gather", [hidden, writer.integers("first", 0)], f"{name}.first", axis=1)
        if encoder.relative is not None:
            start, end, axis = (writer.integers(f"row_{place}", [place]) for place in (0, 1, 2))
            bias = writer.add("Slice", [bias, start, end, axis], "attention.bias.first")
    context = _attention(writer, encoder, layer, name, asking, hidden, bias)
    attended = writer.dense(context, layer.output, f"{name}.output")
    middle = writer.norm(writer.add("Add", [attended, asking], f"{name}.attended"), layer.attention_norm, f"{name}.attention")
    up = _activate(writer, writer.dense(middle, layer.up, f"{name}.up"), encoder.activation, f"{name}.active")
    down = writer.dense(up, layer.down, f"{name}.down")
    return writer.norm(writer.add("Add", [down, middle], f"{name}.fed"), layer.norm, name)


def _attention(writer: _Writer, encoder: Encoder, layer: Layer, name: str, asking: str, hidden: str, bias: str) -> str:
    """Return the attention context, all heads concatenated, for all tokens (`asking` is `hidden`) or for one."""
    heads, width = encoder.num_heads, layer.query.bias.size
    scale = np.float32((width // heads) ** -0.5)
    query = writer.dense(asking, Dense(layer.query.weights * scale, layer.query.bias * scale), f"{name}.query")
    by_head = writer.integers("by_head", [0, 0, heads, width // heads])
    if asking == hidden:
        query = _turned(writer, query, by_head, f"{name}.query", [0, 2, 1, 3])
    else:  # one token: a reshape is enough to put the heads first
        query = writer.add(
            "Reshape", [query, writer.integers("by_head_of_one", [0, heads, 1, width // heads])], f"{name}.heads"
        )
    key = _turned(writer, writer.dense(hidden, layer.key, f"{name}.key"), by_head, f"{name}.key", [0, 2, 3, 1])
    value = _turned(writer, writer.dense(hidden, layer.value, f"{name}.value"), by_head, f"{name}.value", [0, 2, 1, 3])
    scores = writer.add("Add", [writer.add("MatMul", [query, key], f"{name}.scores"), bias], f"{name}.scores.masked")
    mixed = writer.add("MatMul", [writer.add("Softmax", [scores], f"{name}.shares", axis=-1), value], f"{name}.mixed")
    if asking != hidden:
        return writer.add("Reshape", [mixed, writer.integers("flat", [0, width])], f"{name}.context")
    by_token = writer.add("Transpose", [mixed], f"{name}.mixed.by_token", perm=[0, 2, 1, 3])
    return writer.add("Reshape", [by_token, writer.integers("flat_tokens", [0, 0, width])], f"{name}.context")


def _turned(writer: _Writer, tensor: str, by_head: str, name: str, order: list[int]) -> str:
    return writer.add("Transpose", [writer.add("Reshape", [tensor, by_head], f"{name}.split")], f"{name}.by_head", perm=order)


def _activate(writer: _Writer, tensor: str, activation: Activation, name: str) -> str:
    return writer.add(activation, [tensor], name, domain=MICROSOFT if activation in {"Gelu", "FastGelu"} else "")


def _up_to_length(writer: _Writer, ids: str) -> list[str]:
    """Return the inputs of a Slice that keeps as many rows as the batch has tokens: start, end, axis."""
    zero = writer.integers("zero", [0])
    return [zero, writer.add("Shape", [ids], "length", start=1, end=2), zero]


@dataclass(frozen=True)
class _Writer:
    """Collects the nodes and constants of a graph; a second one of the same name is ignored."""

    _nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    _constants: dict[str, TensorProto] = field(default_factory=dict)

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        self._constants.setdefault(name, numpy_helper.from_array(np.asarray(values), name))
        return name

    def integers(self, name: str, values: int | list[int]) -> str:
        return self.constant(name, np.array(values, dtype=np.int64))

    def add(self, op: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        self._nodes.setdefault(output, helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def dense(self, tensor: str, dense: Dense, name: str, *, output: str | None = None) -> str:
        scaled = self.add("MatMul", [tensor, self.constant(f"{name}.weights", dense.weights)], f"{name}.product")
        return self.add("Add", [scaled, self.constant(f"{name}.bias", dense.bias)], output or name)

    def norm(self, tensor: str, norm: Norm, name: str) -> str:
        gamma, beta = self.constant(f"{name}.gamma", norm.gamma), self.constant(f"{name}.beta", norm.beta)
        return self.add("LayerNormalization", [tensor, gamma, beta], f"{name}.norm", axis=-1, epsilon=norm.epsilon)

    def model(self, *, inputs: Sequence[str], num_labels: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            list(self._nodes.values()),
            "classifier",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in inputs],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", num_labels])],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", FUSED_OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
