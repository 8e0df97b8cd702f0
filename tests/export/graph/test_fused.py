"""The fused writer answers as PyTorch does in every family, and what it cannot write it refuses by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from random_models import random_classifier
from torch import nn

from distill.data import Dataset
from distill.errors import SettingsError
from distill.models.torch_classifier import TorchClassifier
from export.graph.encoder import read_encoder
from export.graph.fused import FUSED_OPSET, IR_VERSION, write_fused_graph
from export.int8.parity import compare, parity_texts
from export.runtime.sessions import OnnxClassifier

PLAIN_MOBILEBERT = {
    "embedding_size": 8,
    "trigram_input": False,
    "use_bottleneck": False,
    "num_feedforward_networks": 1,
    "normalization_type": "layer_norm",
    "hidden_act": "gelu",
    "layer_norm_eps": 0.1,  # far from torch's 1e-5, which half of its norms take
}
"""BERT with a factorised embedding."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "bert with relu": ("bert", {"hidden_act": "relu"}),
    "bert with gelu_new": ("bert", {"hidden_act": "gelu_new"}),
    "bert of one layer": ("bert", {"num_hidden_layers": 1}),
    "distilbert": ("distilbert", {}),
    "roberta": ("roberta", {"pad_token_id": 1}),
    "xlm-roberta": ("xlm-roberta", {"pad_token_id": 1}),
    "camembert": ("camembert", {"pad_token_id": 1}),
    "electra": ("electra", {"embedding_size": 32}),
    "electra, factorised": ("electra", {"embedding_size": 8}),
    "mobilebert as bert, factorised": ("mobilebert", PLAIN_MOBILEBERT),
    "mobilebert as bert, with neighbours": ("mobilebert", {**PLAIN_MOBILEBERT, "embedding_size": 32, "trigram_input": True}),
    "mobilebert as bert, factorised, with neighbours": ("mobilebert", {**PLAIN_MOBILEBERT, "trigram_input": True}),
    "mpnet": ("mpnet", {"pad_token_id": 1}),
}


def answers(graph: onnx.ModelProto, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return logits


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def classifier(request: pytest.FixtureRequest, tiny_model: Path) -> TorchClassifier:
    family, more = request.param
    return random_classifier(family, tiny_model, **more)


def test_every_family_answers_as_pytorch_at_any_shape_and_padding(classifier: TorchClassifier) -> None:
    graph = write_fused_graph(classifier)
    onnx.checker.check_model(graph, full_check=False)
    padding = classifier.model.config.pad_token_id
    generator = np.random.default_rng(0)
    for batch, length in ((1, 1), (1, 32), (2, 7), (7, 31), (32, 32)):
        mask = (np.arange(length) < generator.integers(1, length + 1, (batch, 1))).astype(np.int64)
        mask[0] = 1
        ids = np.where(mask, generator.integers(5, 34, (batch, length)), padding)
        with torch.inference_mode():
            expected = classifier.model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
        assert np.abs(expected).max() > 0.05, "answers too small to tell a wrong graph from a right one"
        np.testing.assert_allclose(answers(graph, ids, mask), expected, atol=1e-5)


def test_real_texts_of_every_length_pass_the_gate(classifier: TorchClassifier, tiny_test: Dataset) -> None:
    ours = OnnxClassifier(
        write_fused_graph(classifier).SerializeToString(),
        tokenizer=classifier.tokenizer,
        labels=classifier.labels,
        problem_type="single_label_classification",
        threads=1,
    )
    compare(classifier, ours, parity_texts(tiny_test.texts)).require(1e-4)


def test_what_is_behind_the_mask_has_no_say(tiny_model: Path) -> None:
    graph = write_fused_graph(random_classifier("bert", tiny_model))
    mask = np.array([[1, 1, 1, 1, 0, 0]])
    one, other = np.array([[2, 10, 20, 3, 5, 6]]), np.array([[2, 10, 20, 3, 30, 31]])
    np.testing.assert_array_equal(answers(graph, one, mask), answers(graph, other, mask))
    assert np.abs(answers(graph, one, np.ones_like(mask)) - answers(graph, one, mask)).max() > 1e-3


def test_the_last_layer_computes_the_first_token_only(tiny_model: Path) -> None:
    graph = write_fused_graph(random_classifier("bert", tiny_model))
    names = ["layer.0.up", "layer.0.output", "layer.1.key", "layer.1.query", "layer.1.output", "layer.1.up"]
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    ids = np.full((3, 7), 10)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    shapes = [values.shape for values in session.run(names, {"input_ids": ids, "attention_mask": np.ones_like(ids)})]
    # batch, length, width; then batch, width
    assert shapes == [(3, 7, 64), (3, 7, 32), (3, 7, 32), (3, 32), (3, 32), (3, 64)]


def test_positions_that_no_text_reaches_are_left_out(tiny_model: Path) -> None:
    encoder = read_encoder(random_classifier("bert", tiny_model))
    assert encoder.positions.shape == (32, 32)  # of 64, for texts of at most 32 tokens
    assert read_encoder(random_classifier("roberta", tiny_model, pad_token_id=1)).positions.shape == (32 + 2, 32)


def test_it_asks_for_no_newer_opset_than_it_needs(tiny_model: Path) -> None:
    graph = write_fused_graph(random_classifier("bert", tiny_model))
    assert {entry.domain: entry.version for entry in graph.opset_import} == {"": FUSED_OPSET, "com.microsoft": 1}
    assert (FUSED_OPSET, graph.ir_version) == (17, IR_VERSION)


def test_another_family_is_refused_with_what_to_do(tiny_model: Path) -> None:
    with pytest.raises(SettingsError, match=r"knows bert, .*, not DebertaForSequenceClassification"):
        write_fused_graph(random_classifier("deberta", tiny_model))


@pytest.mark.parametrize(
    "more",
    [
        {"use_bottleneck": True, "intra_bottleneck_size": 16},
        {"num_feedforward_networks": 2},
        {"normalization_type": "no_norm"},
        {"embedding_size": 32},
    ],
)
def test_a_mobilebert_that_is_more_than_bert_is_refused(tiny_model: Path, more: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="MobileBERT only as BERT"):
        write_fused_graph(random_classifier("mobilebert", tiny_model, **(PLAIN_MOBILEBERT | more)))


def test_an_unknown_activation_is_refused(tiny_model: Path) -> None:
    with pytest.raises(SettingsError, match=r"the activations .* not silu"):
        write_fused_graph(random_classifier("bert", tiny_model, hidden_act="silu"))


def test_a_weight_that_nobody_asked_for_is_refused(tiny_model: Path) -> None:
    classifier = random_classifier("bert", tiny_model)
    classifier.model.bert.encoder.layer[1].adapter = nn.Linear(32, 32)
    with pytest.raises(SettingsError, match=r"what bert\.encoder\.layer\.1\.adapter\.bias does in this bert model"):
        write_fused_graph(classifier)


def test_a_missing_weight_is_refused(tiny_model: Path) -> None:
    classifier = random_classifier("bert", tiny_model)
    del classifier.model.bert.pooler
    with pytest.raises(SettingsError, match=r"has no bert\.pooler\.dense\.weight"):
        write_fused_graph(classifier)
