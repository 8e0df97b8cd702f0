"""What each protocol answers, against the runtime asked directly."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from served import Running
from waiting import wait_until

from distill.bundle import Bundle
from distill.classifier import predict
from export.runtime.long_texts import answer_long
from export.runtime.sessions import OnnxClassifier
from serve.errors import Reason, Refusal
from serve.http.protocols import oip
from serve.http.protocols.base import Reply

TEXTS = ["great fresh film", "dull awful plot", "great"]


def expected(bundle: Bundle, texts: list[str] = TEXTS) -> list[list[tuple[str, float]]]:
    answers = predict(OnnxClassifier.open(bundle, threads=1), texts)
    return [sorted(answer.probabilities.items(), key=lambda pair: -pair[1]) for answer in answers]


def pairs(ranked: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(each["label"], pytest.approx(each["score"], abs=1e-6)) for each in ranked]


def test_hugging_face_nests_the_answer_for_one_text(server: Running, tiny_student: Bundle) -> None:
    answered = server.post("/", {"inputs": TEXTS[0]})
    assert answered.status == 200
    assert [pairs(row) for row in answered.json] == expected(tiny_student, TEXTS[:1])


def test_hugging_face_answers_many_in_order_and_as_many_labels_as_asked(server: Running, tiny_student: Bundle) -> None:
    rows = server.post("/", {"inputs": TEXTS * 40, "parameters": {"top_k": 1}}).json
    assert [pairs(row) for row in rows] == [row[:1] for row in expected(tiny_student)] * 40


def test_function_to_apply_is_what_it_says(server: Running, tiny_student: Bundle) -> None:
    logits = OnnxClassifier.open(tiny_student, threads=1).predict_logits(TEXTS[:1])[0]
    for function, wanted in {"none": logits, "sigmoid": 1 / (1 + np.exp(-logits))}.items():
        rows = server.post("/", {"inputs": TEXTS[0], "parameters": {"function_to_apply": function}}).json
        scores = {each["label"]: each["score"] for each in rows[0]}
        assert [scores[label] for label in tiny_student.labels] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_tei_answers_one_text_flat_and_a_batch_nested(server: Running, tiny_student: Bundle) -> None:
    assert pairs(server.post("/predict", {"inputs": TEXTS[0]}).json) == expected(tiny_student)[0]
    assert pairs(server.post("/predict", {"inputs": [TEXTS[0]]}).json) == expected(tiny_student)[0]
    batch = server.post("/predict", {"inputs": [[text] for text in TEXTS]}).json
    assert [pairs(row) for row in batch] == expected(tiny_student)


def test_tei_gives_raw_scores(server: Running, tiny_student: Bundle) -> None:
    logits = OnnxClassifier.open(tiny_student, threads=1).predict_logits(TEXTS[:1])[0]
    scores = {each["label"]: each["score"] for each in server.post("/predict", {"inputs": TEXTS[0], "raw_scores": True}).json}
    assert [scores[label] for label in tiny_student.labels] == pytest.approx(logits.tolist(), abs=1e-5)


def test_tei_refuses_a_long_text_unless_told_to_truncate(server: Running) -> None:
    long = " ".join(["good"] * 100)  # the tiny student keeps 32 tokens
    refused = server.post("/predict", {"inputs": long})
    assert (refused.status, refused.json["error_type"]) == (422, "validation")
    cut = server.post("/predict", {"inputs": long, "truncate": True})
    assert (cut.status, cut.headers["x-truncated-texts"]) == (200, "1")
    fits = server.post("/predict", {"inputs": " ".join(["good"] * 30)})  # and two special tokens: exactly 32
    assert fits.status == 200
    assert "x-truncated-texts" not in fits.headers


def test_long_texts_in_windows_are_answered_as_everywhere(serve_bundle: Callable[..., Running], tiny_student: Bundle) -> None:
    server = serve_bundle(long_texts="windows")
    texts = [" ".join(["good"] * 40 + ["dull"] * 80), "good"]
    classifier = OnnxClassifier.open(tiny_student, threads=1)
    wanted, num_long = answer_long(classifier, texts, long_texts="windows")
    assert num_long == 1
    body = {"inputs": [[text] for text in texts], "raw_scores": True}
    for extra in ({}, {"truncate": False}):  # in windows nothing is cut
        answered = server.post("/predict", {**body, **extra})
        assert answered.status == 200
        assert "x-truncated-texts" not in answered.headers
        scores = [{each["label"]: each["score"] for each in row} for row in answered.json]
        np.testing.assert_allclose([[row[label] for label in tiny_student.labels] for row in scores], wanted, atol=1e-5)
    assert server.post("/predict", {**body, "truncate": True}).headers["x-truncated-texts"] == "1"
    assert server.post("/", {"inputs": {"text": texts[0], "text_pair": "good"}}).status == 422
    assert 'potstill_windowed_texts_total{model="tiny"} 2.0' in server.ask("GET", "/metrics").body.decode()


def test_oip_answers_json_with_every_output(server: Running, tiny_student: Bundle) -> None:
    body = {"id": "7", "inputs": [{"name": "text", "shape": [3], "datatype": "BYTES", "data": TEXTS}]}
    answer = server.post("/v2/models/tiny/infer", body).json
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert (answer["model_name"], answer["id"]) == ("tiny", "7")
    assert outputs["label"]["data"] == [row[0][0] for row in expected(tiny_student)]
    assert outputs["probabilities"]["shape"] == [3, len(tiny_student.labels)]
    assert sum(outputs["probabilities"]["data"]) == pytest.approx(3)


def test_oip_reads_and_writes_the_binary_form(server: Running, tiny_student: Bundle) -> None:
    packed = b"".join(struct.pack("<I", len(text)) + text.encode() for text in TEXTS)
    tensor = {"name": "text", "shape": [3, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(packed)}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}).encode()
    answered = server.ask("POST", "/v2/models/tiny/infer", head + packed, inference_header_content_length=str(len(head)))
    length = int(answered.headers["inference-header-content-length"])
    described = json.loads(answered.body[:length])["outputs"]
    logits = np.frombuffer(answered.body[length:], "<f4").reshape(described[0]["shape"])
    np.testing.assert_allclose(logits, OnnxClassifier.open(tiny_student, threads=1).predict_logits(TEXTS), atol=1e-6)


def test_of_a_tensor_with_too_many_texts_no_more_are_made_than_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def unpacked(tail: bytes) -> Iterator[str]:
        for text in unpack(tail):
            made.append(text)
            yield text

    unpack = oip._unpacked
    monkeypatch.setattr(oip, "_unpacked", unpacked)
    packed = bytes(4 * 100_000)  # so many empty texts
    for shape in ([1], [8], [100_000], [0]):
        tensor = {"name": "text", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(packed)}}
        head = json.dumps({"inputs": [tensor]}).encode()
        made.clear()
        with pytest.raises(Refusal) as refused:
            oip.OpenInference().read(head + packed, {oip.HEADER_LENGTH: b"%d" % len(head)}, max_texts=8)
        assert refused.value.reason is Reason.INVALID
        assert len(made) <= 9


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", {"inputs": ["a"] * 3}),
        ("/predict", {"inputs": [["a"]] * 3}),
        ("/predict", {"inputs": ["a", "b", "c"]}),
        ("/v2/models/tiny/infer", {"inputs": [{"name": "text", "shape": [3], "datatype": "BYTES", "data": ["a"] * 3}]}),
        ("/v2/models/tiny/infer", {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": [["a", "b", "c"]]}]}),
    ],
)
def test_too_many_texts_are_refused_in_every_protocol(serve_bundle: Callable[..., Running], path: str, body: object) -> None:
    assert serve_bundle(max_texts=2).post(path, body).status in (400, 422)


def test_every_route_of_the_document_is_there_and_the_readers_work(server: Running) -> None:
    document = server.ask("GET", "/openapi.json").json
    assert document["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/HuggingFaceRequest"
    }
    reload = document["paths"]["/admin/reload"]["post"]
    wanted = {"$ref": "#/components/schemas/ReloadRequest"}
    assert reload["requestBody"] == {"required": False, "content": {"application/json": {"schema": wanted}}}
    assert document["components"]["schemas"]["ReloadRequest"]["properties"].keys() == {"model", "bundle"}
    answers = document["paths"]["/predict"]["post"]["responses"]
    assert answers["200"]["headers"].keys() == {"x-truncated-texts"}
    assert answers["429"]["headers"].keys() == {"Retry-After"}
    gets = [path for path, operations in document["paths"].items() if "get" in operations]
    assert {"/", "/docs", "/health", "/info", "/metrics", "/v2"} <= set(gets)
    for path in gets:
        answered = server.ask("GET", path.format(name="tiny", version="1"))
        assert answered.status == 200, path
    assert server.ask("HEAD", "/health").status == 200


def test_what_never_changes_is_made_once(server: Running) -> None:
    async def asked(path: str) -> Reply:
        call = server.app.judge("GET", path, {}, "127.0.0.1")
        return call.reply or await server.app.answer(call, bytearray())

    for path in ("/", "/docs", "/openapi.json"):
        assert asyncio.run(asked(path)) is asyncio.run(asked(path))


def test_info_is_the_bundles_card(server: Running, tiny_student: Bundle) -> None:
    about = server.ask("GET", "/info").json
    assert about["model_type"]["classifier"]["id2label"]["0"] == tiny_student.labels[0]
    assert about["models"]["tiny"]["size_bytes"] == tiny_student.size_bytes("int8")
    assert about["models"]["tiny"]["quality"]["int8"]["macro_f1"] == tiny_student.manifest.quality["int8"]["macro_f1"]
    assert str(tiny_student.path) not in json.dumps(about)


def test_metrics_count_requests_and_texts(server: Running) -> None:
    server.post("/", {"inputs": TEXTS})
    server.post("/predict", {"inputs": 1})
    text = server.ask("GET", "/metrics").body.decode()
    assert 'potstill_requests_total{model="tiny",protocol="huggingface",status="200"} 1.0' in text
    assert 'potstill_requests_total{model="tiny",protocol="tei",status="422"} 1.0' in text
    assert 'potstill_texts_total{model="tiny"} 3.0' in text
    assert 'potstill_queue_texts{model="tiny"} 0.0' in text


def test_metrics_say_how_many_threads_have_nothing_to_do(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(threads=3)
    server.post("/", {"inputs": TEXTS})
    # A thread is idle when it waits again, a moment after its answer is out.
    wait_until(lambda: b'potstill_idle_threads{model="tiny"} 3.0' in server.ask("GET", "/metrics").body)
