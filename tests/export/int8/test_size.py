"""What must be shipped fits the size asked for, in the widest form that does, or the refusal says which student would."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distill.bundle import Bundle
from distill.errors import GateError
from export.int8.embeddings import quantize_tables
from export.int8.size import embeddings_that_fit
from export.settings import EmbeddingPrecision, ExportSettings


@pytest.fixture
def graph() -> onnx.ModelProto:
    """Return a graph with vectors of 64 numbers for 10,000 words: 2.56 MB, in int8 0.68, in int4 0.36; 0.26 MB of layers."""
    takes = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    nodes = [helper.make_node("Gather", ["words", "ids"], ["x"]), helper.make_node("MatMul", ["x", "layers"], ["out"])]
    held = {"words": np.random.default_rng(0).normal(size=(10_000, 64)), "layers": np.ones((64, 1000))}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    gives = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 1000])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "test", [takes], [gives], constants), opset_imports=opsets)


@pytest.fixture
def fit(graph: onnx.ModelProto, tiny_teacher: Bundle) -> Callable[..., EmbeddingPrecision]:
    """Return a function from settings to the form that fits."""

    def quantized(form: EmbeddingPrecision) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        return quantize_tables(copy, form)

    return lambda **settings: embeddings_that_fit(tiny_teacher, graph, ExportSettings(**settings), quantized)


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({}, "int8"),
        ({"embeddings": "int4"}, "int4"),
        ({"embeddings": "fp32"}, "fp32"),
        ({"max_size_mb": 2}, "int8"),
        ({"max_size_mb": 0.8}, "int4"),
        ({"max_size_mb": 2, "embeddings": "int4"}, "int4"),
    ],
    ids=str,
)
def test_the_widest_form_that_fits_is_taken(
    settings: dict[str, Any], form: EmbeddingPrecision, fit: Callable[..., EmbeddingPrecision]
) -> None:
    assert fit(**settings) == form


def test_a_size_out_of_reach_names_the_vocabulary_and_the_width_that_would_fit(fit: Callable[..., EmbeddingPrecision]) -> None:
    with pytest.raises(GateError, match=r"0\.\d+ MB with int4 tables.* 0\.5 MB.*nothing was sealed") as caught:
        fit(max_size_mb=0.5)
    assert caught.value.exit_code == 4
    said = str(caught.value)
    assert "0.36 MB are the embeddings of 10,000 tokens" in said
    words = int(re.search(r"vocabulary of ([\d,]+) tokens", said)[1].replace(",", ""))
    # 0.256 MB of layers and a few kB of manifest and tokenizer leave 0.23 MB at 36 bytes a word
    assert 5800 <= words <= 6600
    assert "width of 32 would fit" in said


def test_a_form_that_was_asked_for_is_not_changed_to_fit(fit: Callable[..., EmbeddingPrecision]) -> None:
    with pytest.raises(GateError, match="with int8 tables"):
        fit(max_size_mb=0.8, embeddings="int8")
