"""The ladder: which rungs there are, that each failure is said, and that the most sensitive products are left out last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny_task import Listening

from distill.bundle import Bundle
from distill.data import Splits
from distill.errors import QualityError
from distill.evaluation.metrics import evaluate
from export.int8.calibration import channel_ranges
from export.int8.ladder import Attempt, Baseline, Ladder
from export.int8.linear import linear_inputs, linear_layers
from export.int8.quantize import Quantization, quantize
from export.runtime.sessions import OnnxClassifier
from export.settings import EmbeddingPrecision, ExportSettings

Climb = Callable[..., tuple[onnx.ModelProto, Attempt]]
BAD = "layer.0.down"


@pytest.fixture(scope="module")
def fp32(tiny_student: Bundle) -> onnx.ModelProto:
    """Return the student's fp32 graph; do not change it."""
    return onnx.load(tiny_student.graph("fp32"))


@pytest.fixture
def climb(tiny_student: Bundle, tiny_splits: Splits, fp32: onnx.ModelProto) -> Climb:
    """Return a function that climbs the ladder with a reporter and settings."""

    def opened(graph: onnx.ModelProto) -> OnnxClassifier:
        return OnnxClassifier(
            graph.SerializeToString(),
            tokenizer=tiny_student.tokenizer(),
            labels=tiny_student.labels,
            problem_type="single_label_classification",
            threads=1,
        )

    validation = tiny_splits.validation
    logits = opened(fp32).predict_logits(validation.texts)
    quality = evaluate(labels=validation.label_ids, logits=logits, label_names=tiny_student.labels)
    ranges = channel_ranges(fp32, linear_inputs(fp32), texts=validation.texts, tokenizer=tiny_student.tokenizer())

    def run(
        reporter: Listening, settings: ExportSettings, embeddings: EmbeddingPrecision = "int8"
    ) -> tuple[onnx.ModelProto, Attempt]:
        ladder = Ladder(fp32, ranges, embeddings, settings, Baseline(validation, logits, quality), opened)
        return ladder.first_that_passes(reporter)

    return run


def damaged_unless(is_good: Callable[[Quantization], bool]) -> Callable[..., onnx.ModelProto]:
    """Return a quantizer that gives every text one label, unless the form is good."""

    def damaging(graph: onnx.ModelProto, ranges: Any, how: Quantization) -> onnx.ModelProto:
        quantized = quantize(graph, ranges, how)
        if is_good(how):
            return quantized
        (last,) = [node for node in quantized.graph.node if "logits" in node.output]
        last.output[0] = "undamaged"
        quantized.graph.initializer.append(numpy_helper.from_array(np.float32([100, 0]), "damage"))
        quantized.graph.node.append(helper.make_node("Add", ["undamaged", "damage"], ["logits"]))
        return quantized

    return damaging


def test_what_is_good_at_once_takes_the_first_rung_and_says_nothing(climb: Climb) -> None:
    listening = Listening()
    _, passed = climb(listening, ExportSettings(target="vnni"))
    assert passed.form == "8-bit weights, fixed scales, int8 tables"
    assert listening.said == []


def test_tables_of_four_bits_are_widened_before_any_product_is_left_out(climb: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.int8.ladder.quantize", damaged_unless(lambda how: how.embeddings != "int4"))
    listening = Listening()
    _, passed = climb(listening, ExportSettings(), "int4")
    assert passed.form.endswith("int8 tables")
    assert listening.said == ["export: int8 with 7-bit weights, fixed scales, int4 tables is not good enough: macro-F1"]


def test_tables_that_a_size_asked_for_are_not_widened(climb: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.int8.ladder.quantize", damaged_unless(lambda how: bool(how.keep)))
    _, passed = climb(Listening(), ExportSettings(max_size_mb=5), "int4")
    assert "int4 tables" in passed.form


def test_the_product_that_hurts_most_is_left_out_last(
    climb: Climb, fp32: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BAD in {layer.output for layer in linear_layers(fp32)}
    monkeypatch.setattr("export.int8.ladder.quantize", damaged_unless(lambda how: BAD in how.keep))
    listening = Listening()
    graph, passed = climb(listening, ExportSettings())
    assert passed.form == f"7-bit weights, fixed scales, int8 tables, {BAD} in fp32"
    assert passed.figures()["form"] == passed.form
    assert not any(node.op_type == "MatMulIntegerToFloat" and BAD in node.output for node in graph.graph.node)
    assert len(listening.said) == 1


def test_when_no_rung_holds_a_table_says_what_was_tried(climb: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.int8.ladder.quantize", damaged_unless(lambda how: False))
    listening = Listening()
    with pytest.raises(QualityError, match="nothing was sealed") as caught:
        climb(listening, ExportSettings())
    assert caught.value.metric == "macro-F1"
    start = listening.said.index("export: what was tried, against fp32:")
    rows = listening.said[start + 1 :]
    assert len(rows) == 3  # as asked, without one product, without three
    assert all("macro-F1 -0." in row and "agreement 0.5" in row and row.endswith(": macro-F1") for row in rows)


def test_answers_that_depend_on_the_batch_fail_the_rung(climb: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    def dynamic(graph: onnx.ModelProto, ranges: Any, how: Quantization) -> onnx.ModelProto:
        return quantize(graph, ranges, Quantization(127, "dynamic"))

    # How much a dynamic scale moves depends on the student; fixed ones move nothing.
    settings = ExportSettings(budget_f1=1, budget_recall=1, budget_ece=1, min_agreement=0, batch_tolerance=1e-6)
    _, attempt = climb(Listening(), settings)
    assert attempt.failure is None
    monkeypatch.setattr("export.int8.ladder.quantize", dynamic)
    with pytest.raises(QualityError) as caught:
        climb(Listening(), settings)
    assert caught.value.metric == "probability alone and in a batch"
