"""Rounding in training is the int8 graph's own: the same answers, the same scales, from the student to the sealed graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import random_classifier
from tiny_task import Listening

from distill.bundle import QUANTIZATION, Bundle
from distill.data import Splits
from distill.errors import SettingsError
from distill.models.torch_classifier import TorchClassifier
from distill.scales import SEVEN_BIT_LIMIT, read_scales
from distill.settings import DistillSettings
from distill.training.distillation import fit_student
from distill.training.rounding import rounded_input, rounded_layers, rounded_weights, rounding
from export.graph.fused import write_fused_graph
from export.int8.linear import linear_inputs, linear_layers
from export.int8.quantize import Quantization, quantize
from export.pipeline import export_bundle
from export.runtime.sessions import OnnxClassifier

TEXTS = ("a lovely film", "dull", "the plot was funny and the end was warm", "it was cold with awful music")
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}


def graph_of(classifier: TorchClassifier, graph: object) -> OnnxClassifier:
    return OnnxClassifier(
        graph.SerializeToString(),  # type: ignore[attr-defined]
        tokenizer=classifier.tokenizer,
        labels=classifier.labels,
        problem_type=classifier.problem_type,
    )


@pytest.mark.parametrize("layers", [1, 2])
def test_a_rounding_model_answers_as_its_int8_graph(layers: int, tiny_model: Path) -> None:
    classifier = random_classifier("bert", tiny_model, **(SIZES | {"num_hidden_layers": layers}))
    exact = classifier.predict_logits(TEXTS)
    fp32 = write_fused_graph(classifier)
    with rounding(classifier, TEXTS) as scales:
        rounded = classifier.predict_logits(TEXTS)
    assert sorted(scales) == sorted(linear_inputs(fp32))
    assert len(rounded_layers(classifier)) == len(linear_layers(fp32))
    int8 = quantize(fp32, scales, Quantization(weight_limit=SEVEN_BIT_LIMIT, embeddings="fp32"))
    by_graph = graph_of(classifier, int8).predict_logits(TEXTS)
    cost = np.abs(by_graph - exact).max()
    # What is left is a byte here and there that the last bit of a float32 puts on the other side of a half.
    assert np.abs(rounded - by_graph).max() < 0.1 * cost
    np.testing.assert_array_equal(classifier.predict_logits(TEXTS), exact)  # and afterwards nothing rounds any more


def test_an_input_is_rounded_to_its_bytes_and_no_further() -> None:
    values = torch.tensor([[-3.0, 0.26, 0.74, 300.0]], requires_grad=True)
    step = torch.tensor([1.0, 0.5, 0.5, 1.0])
    rounded = rounded_input(values, step, 2)
    # bytes 0 to 255 with 2 for 0: steps -2 to 253; 0.26 / 0.5 is nearer 1 than 0, 0.74 / 0.5 nearer 1 than 2
    assert rounded.tolist() == [[-2.0, 0.5, 0.5, 253.0]]
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_weights_are_rounded_after_they_took_up_the_steps() -> None:
    weights = torch.tensor([[63.0, 10.0], [0.0, 0.0]], requires_grad=True)
    rounded = rounded_weights(weights, torch.tensor([1.0, 0.25]))
    # the first output: 63 and 2.5 in steps of 1, so 63 and 2 (ties go to the even), and 2 / 0.25 is 8
    assert rounded.tolist() == [[63.0, 8.0], [0.0, 0.0]]
    rounded.sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_what_it_does_not_know_is_refused(tiny_model: Path) -> None:
    classifier = random_classifier("distilbert", tiny_model)
    with pytest.raises(SettingsError, match=r"DistilBertForSequenceClassification.*--quantization-aware-epochs"):
        rounded_layers(classifier)
    bert = random_classifier("bert", tiny_model, **SIZES)
    with pytest.raises(SettingsError, match="calibrate"), rounding(bert, ()):
        pass


def test_a_student_that_cannot_round_is_refused_before_anything_is_learnt(
    tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    settings = DistillSettings(kind="static", quantization_aware_epochs=1)
    heard = Listening()
    with pytest.raises(SettingsError, match="leave out --quantization-aware-epochs"):
        fit_student(
            tiny_teacher,
            train=tiny_splits.train,
            validation=tiny_splits.validation,
            out=tmp_path / "s",
            settings=settings,
            reporter=heard,
        )
    assert heard.said == []


def test_learned_scales_travel_from_training_to_the_graph(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    few = replace(tiny_splits, train=tiny_splits.train.take(range(64)))
    settings = DistillSettings(
        epochs=1, quantization_aware_epochs=2, batch_size=16, num_layers=2, learning_rate=1e-3, mixed_precision="no"
    )
    heard = Listening()
    student = fit_student(
        tiny_teacher, train=few.train, validation=few.validation, out=tmp_path / "s", settings=settings, reporter=heard
    )
    assert sum("with rounding: epoch" in line for line in heard.said) == 2
    assert [epoch["epoch"] for epoch in student.manifest.history] == [1, 2, 3]
    known = read_scales(student)
    assert {source for _, source in known.values()} == {"quantization-aware distillation"}
    exported = export_bundle(student, validation=few.validation, reporter=heard)
    assert f"export: {len(known)} of {len(known)} activation scales are the bundle's own" in heard.said
    kept = json.loads(exported.file(QUANTIZATION).read_text())["inputs"]
    assert {name: entry["source"] for name, entry in kept.items()} == dict.fromkeys(known, "quantization-aware distillation")
    assert not list((tmp_path / "s").glob(".checkpoint*"))
