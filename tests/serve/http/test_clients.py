"""The clients people have, unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from served import Running

from distill.bundle import Bundle
from distill.classifier import predict
from export.runtime.sessions import OnnxClassifier

TEXTS = ["great fresh film", "dull awful plot"]


def test_hugging_face_hub(server: Running, tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the tests' own guard against the hub; this server is not it

    client = InferenceClient(base_url=server.url)
    for text, answer in zip(TEXTS, predict(OnnxClassifier.open(tiny_student, threads=1), TEXTS), strict=True):
        given = client.text_classification(text)
        assert (given[0].label, given[0].score) == (answer.label, pytest.approx(answer.score, abs=1e-6))
    assert len(client.text_classification(TEXTS[0], top_k=1, function_to_apply="sigmoid")) == 1


def test_triton(server: Running, tiny_student: Bundle) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.get_model_metadata("tiny")["inputs"][0]["datatype"] == "BYTES"
    logits = OnnxClassifier.open(tiny_student, threads=1).predict_logits(TEXTS)
    for is_binary in (True, False):
        tensor = triton.InferInput("text", [len(TEXTS)], "BYTES")
        tensor.set_data_from_numpy(np.array(TEXTS, object), binary_data=is_binary)
        wanted = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("label", "logits")]
        answer = client.infer("tiny", [tensor], outputs=wanted, request_id="a")
        labels = [value.decode() if isinstance(value, bytes) else value for value in answer.as_numpy("label")]
        assert labels == [tiny_student.labels[row.argmax()] for row in logits]
        np.testing.assert_allclose(answer.as_numpy("logits"), logits, atol=1e-5)
    client.close()
