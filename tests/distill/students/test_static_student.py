"""A static student from teacher to graph: what it is made of, that it learns, and that every form of it answers alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.errors import SettingsError
from distill.evaluation.metrics import macro_f1
from distill.models.eager import EagerClassifier
from distill.models.loading import load_bundle, load_pretrained
from distill.models.static_network import StaticClassifier
from distill.models.torch_classifier import TorchClassifier
from distill.settings import DistillSettings
from distill.students.build import build_student
from distill.students.static_student import build_static, token_vectors
from distill.training.distillation import fit_student
from export.pipeline import export_bundle
from export.runtime.sessions import OnnxClassifier

Make = Callable[..., TorchClassifier]
STATIC = DistillSettings(
    kind="static", epochs=20, learning_rate=1e-2, batch_size=16, static_features=48, static_head=48, max_length=24
)


@pytest.fixture(scope="module")
def static_bundle(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a static student of the tiny task with fp32 and int8 graphs; do not change it."""
    out = tmp_path_factory.mktemp("bundles") / "static"
    bundle = fit_student(tiny_teacher, train=tiny_splits.train, validation=tiny_splits.validation, out=out, settings=STATIC)
    return export_bundle(bundle, validation=tiny_splits.validation)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_its_vectors_are_what_the_teacher_makes_of_each_token_alone(family: str, make_classifier: Make) -> None:
    teacher = make_classifier(family)
    rows = []
    for token in range(teacher.tokenizer.vocabulary_size):
        ids = torch.tensor([[2, token, 3]])
        with torch.no_grad():
            rows.append(teacher.model(input_ids=ids, output_hidden_states=True, attention_mask=ids**0).hidden_states[-1][0, 1])
    centred = torch.stack(rows) - torch.stack(rows).mean(dim=0)
    expected = centred / (centred**2).mean() ** 0.5
    torch.testing.assert_close(token_vectors(teacher), expected, atol=1e-4, rtol=1e-4)
    table = build_static(teacher, DistillSettings(), seed=0).input_vectors()
    np.testing.assert_allclose(table[1:], expected[1:], atol=1e-4)
    assert not table[teacher.tokenizer.pad_id].any()


@pytest.mark.usefixtures("torch_left_alone")
def test_its_vectors_are_read_without_dropout(make_classifier: Make) -> None:
    # 64 positions for texts of 32 tokens: the student is made of a shorter copy of the teacher
    teacher = make_classifier(hidden_dropout_prob=0.5, max_length=32)
    student = build_student(teacher, DistillSettings(kind="static"))
    np.testing.assert_allclose(student.input_vectors()[1:], token_vectors(teacher)[1:], atol=1e-5)


def test_the_seed_draws_all_other_weights(make_classifier: Make, torch_left_alone: None) -> None:
    teacher = make_classifier()
    digests = [build_static(teacher, DistillSettings(), seed=seed).digest() for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_it_learns_from_the_teacher(static_bundle: Bundle, tiny_test: Dataset) -> None:
    logits = OnnxClassifier.open(static_bundle, precision="fp32").predict_logits(tiny_test.texts)
    assert macro_f1(tiny_test.label_ids, logits) > 0.75  # guessing gives 0.5


def test_without_a_teacher_it_learns_from_the_labels(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    control = STATIC.model_copy(update={"soft_weight": 0.0, "epochs": 1})
    data = {"train": tiny_splits.train, "validation": tiny_splits.validation}
    bundle = fit_student(tiny_teacher, out=tmp_path / "control", settings=control, **data)
    assert bundle.manifest.settings["student"]["kind"] == "static"


@pytest.mark.parametrize("batch_size", [1, 2, 7, 32])
def test_every_form_of_it_answers_alike(static_bundle: Bundle, tiny_test: Dataset, batch_size: int) -> None:
    texts = tiny_test.texts[-batch_size:]
    expected = load_bundle(static_bundle).predict_logits(texts)
    fp32 = OnnxClassifier.open(static_bundle, precision="fp32").predict_logits(texts)
    np.testing.assert_allclose(fp32, expected, atol=1e-5)
    np.testing.assert_allclose(EagerClassifier(static_bundle).predict_logits(texts), expected, atol=1e-5)
    int8 = OnnxClassifier.open(static_bundle, precision="int8").predict_logits(texts)
    np.testing.assert_allclose(int8, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_its_answer_does_not_depend_on_its_batch_mates(static_bundle: Bundle, tiny_test: Dataset, precision: str) -> None:
    classifier = OnnxClassifier.open(static_bundle, precision=precision)  # type: ignore[arg-type]
    texts = tiny_test.texts[:50]
    alone = np.concatenate([classifier.predict_logits([text]) for text in texts])
    np.testing.assert_allclose(classifier.predict_logits(texts), alone, atol=1e-5)


def test_its_graph_looks_up_finished_products_and_int8_makes_them_small(static_bundle: Bundle) -> None:
    config = load_bundle(static_bundle).model.config
    rows, width = config.vocab_size * 3, 48
    fp32 = {tuple(tensor.dims): tensor for tensor in onnx.load(static_bundle.graph("fp32")).graph.initializer}
    assert (rows, width) in fp32
    assert (config.vocab_size, config.hidden_size) not in fp32
    int8 = {tuple(tensor.dims): tensor for tensor in onnx.load(static_bundle.graph("int8")).graph.initializer}
    assert int8[rows, width].data_type == onnx.TensorProto.INT8
    assert int8[config.vocab_size, 1].data_type == onnx.TensorProto.FLOAT  # a byte and a scale would be more


def test_plain_transformers_does_not_take_it_for_something_else(static_bundle: Bundle) -> None:
    written = json.loads((static_bundle.path / "config.json").read_text())
    assert (written["model_type"], written["architectures"]) == ("potstill-static", ["StaticClassifier"])
    assert isinstance(load_bundle(static_bundle).model, StaticClassifier)  # and loading it with ours teaches theirs nothing:
    with pytest.raises(ValueError, match="potstill-static"):
        AutoModelForSequenceClassification.from_pretrained(static_bundle.path)
    assert "loads with potstill only" in (static_bundle.path / "README.md").read_text()


def test_it_has_no_layers_to_lend(static_bundle: Bundle) -> None:
    teacher = load_bundle(static_bundle)
    for settings in (DistillSettings(), STATIC):
        with pytest.raises(SettingsError, match="static teacher has none"):
            build_student(teacher, settings)
    with pytest.raises(SettingsError, match="cannot be fine-tuned"):
        load_pretrained(str(static_bundle.path), labels=static_bundle.labels, max_length=24, seed=0)


def test_it_may_teach_another(static_bundle: Bundle, tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    few = replace(tiny_splits.train, texts=tiny_splits.train.texts[:40], label_ids=tiny_splits.train.label_ids[:40])
    settings = STATIC.model_copy(update={"epochs": 1})
    made = fit_student(
        [static_bundle, tiny_teacher], train=few, validation=tiny_splits.validation, out=tmp_path / "made", settings=settings
    )
    assert made.manifest.lineage.teacher_sha256 is not None


def test_settings_of_layers_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"no layers.*intermediate_size and num_layers"):
        DistillSettings(kind="static", num_layers=2, intermediate_size=64)
    with pytest.raises(SettingsError, match="static_window must be odd"):
        DistillSettings(static_window=4)
