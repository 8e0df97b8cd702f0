"""The fp32 graph: what it takes and gives, that it holds for shapes it was not traced at, and that it tells no tales."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from random_models import random_classifier

from distill.bundle import Bundle
from distill.data import Dataset
from distill.models.loading import load_bundle
from export.graph.portable import OPSET, write_portable_graph
from export.runtime.sessions import OnnxClassifier


@pytest.fixture(scope="module")
def graph(tiny_student: Bundle) -> onnx.ModelProto:
    """Return the portable graph of the student; do not change it."""
    return write_portable_graph(load_bundle(tiny_student))


@pytest.fixture(scope="module")
def session(graph: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def axes_of(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_it_takes_int64_ids_and_mask_and_gives_float32_logits(graph: onnx.ModelProto) -> None:
    taken = [(value.name, value.type.tensor_type.elem_type, axes_of(value)) for value in graph.graph.input]
    assert taken == [
        ("input_ids", TensorProto.INT64, ["batch", "length"]),
        ("attention_mask", TensorProto.INT64, ["batch", "length"]),
    ]
    (given,) = graph.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("logits", TensorProto.FLOAT)
    assert axes_of(given) == ["batch", 2]


def test_its_weights_are_inside(graph: onnx.ModelProto) -> None:
    assert all(tensor.data_location == TensorProto.DEFAULT for tensor in graph.graph.initializer)
    onnx.checker.check_model(graph, full_check=True)


def test_it_uses_standard_ops_only(graph: onnx.ModelProto) -> None:
    assert {node.domain for node in graph.graph.node} == {""}
    assert not graph.functions
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]


def test_it_tells_nothing_of_the_machine_that_wrote_it(tiny_student: Bundle) -> None:
    for precision in ("fp32", "int8"):
        content = tiny_student.graph(precision).read_bytes()
        for needle in (
            b"site-packages",
            b".py",
            b'File "',
            b"stack_trace",
            b"/home/",
            b"/tmp/",
            str(Path.home()).encode() + b"/",
        ):
            assert needle not in content, needle


@pytest.mark.parametrize("length", [1, 2, 7, 31, 32])
@pytest.mark.parametrize("batch", [1, 3, 33])
def test_it_answers_as_torch_at_shapes_it_was_not_traced_at(
    tiny_student: Bundle, session: ort.InferenceSession, batch: int, length: int
) -> None:
    model = load_bundle(tiny_student).model
    generator = np.random.default_rng(batch * 100 + length)
    ids = generator.integers(5, 34, (batch, length))
    # Rows of many lengths, the first one whole; what lies behind the mask are real ids, not zeros.
    mask = (np.arange(length) < generator.integers(1, length + 1, (batch, 1))).astype(np.int64)
    mask[0] = 1
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    logits = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_what_is_behind_the_mask_has_no_say(session: ort.InferenceSession) -> None:
    ids = np.array([[2, 10, 20, 3, 5, 6]])
    mask = np.array([[1, 1, 1, 1, 0, 0]])
    others = ids.copy()
    others[0, 4:] = (30, 31)
    answers = [session.run(None, {"input_ids": row, "attention_mask": mask})[0] for row in (ids, others)]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
    whole = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(mask)})[0]
    assert np.abs(whole - answers[0]).max() > 1e-4


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_other_families_are_written_right(family: str, tiny_model: Path, tiny_test: Dataset) -> None:
    classifier = random_classifier(family, tiny_model)
    graph = write_portable_graph(classifier)
    ours = OnnxClassifier(
        graph.SerializeToString(),
        tokenizer=classifier.tokenizer,
        labels=classifier.labels,
        problem_type=classifier.problem_type,
    )
    texts = (*tiny_test.texts[:40], "dull", "film " * 50)
    np.testing.assert_allclose(ours.predict_logits(texts), classifier.predict_logits(texts), atol=1e-5)


def test_writing_says_nothing_and_leaves_model_and_torch_as_they_were(
    tiny_unexported: Bundle, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    classifier = load_bundle(tiny_unexported)
    before, state, threads = classifier.digest(), torch.get_rng_state(), torch.get_num_threads()
    write_portable_graph(classifier)
    assert classifier.digest() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
