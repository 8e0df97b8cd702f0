"""A student and its teacher as one served model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from served import Running
from tokenizers import Encoding, Tokenizer

from distill import tokenization
from distill.bundle import Bundle
from distill.classifier import TextInput, predict
from distill.data import Splits
from distill.errors import BundleError, SettingsError
from export.runtime.sessions import OnnxClassifier
from export.threshold import set_cascade
from serve.answering.fallback import cascade_source
from serve.commands import serve
from serve.settings import ServeSettings

TEXTS = ["great film", "awful film", "the film", "great awful film", "a plain thing"]


def scores(server: Running, texts: list[str]) -> list[dict[str, float]]:
    answered = server.post("/predict", {"inputs": [[text] for text in texts]})
    assert answered.status == 200, answered.body
    return [{choice["label"]: choice["score"] for choice in row} for row in answered.json]


def test_sure_texts_get_the_students_answer_and_the_others_the_fallbacks(
    serve_sources: Callable[..., Running], tiny_student: Bundle, tiny_fallback: Bundle
) -> None:
    members = [predict(OnnxClassifier.open(each), TEXTS) for each in (tiny_student, tiny_fallback)]
    sureness = sorted(each.score for each in members[0])
    bound = (sureness[1] + sureness[2]) / 2  # two texts below it
    settings = ServeSettings(port=0, drain_s=0)
    source = cascade_source("both", tiny_student.path, tiny_fallback.path, settings.limits_with({}), min_confidence=bound)
    server = serve_sources([source], settings)
    wanted = [by_fallback if own.score < bound else own for own, by_fallback in zip(*members, strict=True)]
    for given, prediction in zip(scores(server, TEXTS), wanted, strict=True):
        assert given == pytest.approx(prediction.probabilities, abs=1e-5)

    about = server.ask("GET", "/info").json["models"]["both"]["cascade"]
    assert (about["min_confidence"], about["temperature"], about["fallback"]["role"]) == (bound, 1.0, "teacher")
    assert (about["texts"], about["student_share"]) == (5, pytest.approx(3 / 5))
    assert min(about["student_ms_per_text"], about["fallback_ms_per_text"]) > 0
    metrics = server.ask("GET", "/metrics").body.decode().splitlines()
    assert 'potstill_cascade_texts_total{member="student",model="both"} 5.0' in metrics
    assert 'potstill_cascade_texts_total{member="fallback",model="both"} 2.0' in metrics


def test_the_student_tokenizes_a_text_once_and_the_fallback_only_what_it_answers(
    serve_sources: Callable[..., Running], tiny_student: Bundle, tiny_fallback: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    sureness = sorted(each.score for each in predict(OnnxClassifier.open(tiny_student), TEXTS))
    bound = (sureness[1] + sureness[2]) / 2  # two texts below it
    settings = ServeSettings(port=0, drain_s=0)
    source = cascade_source("both", tiny_student.path, tiny_fallback.path, settings.limits_with({}), min_confidence=bound)
    server = serve_sources([source], settings)
    library, encoded = tokenization._encoded, list[TextInput]()

    def counting(tokenizer: Tokenizer, texts: Sequence[TextInput], **how: bool) -> list[Encoding]:
        encoded.extend(texts)
        return library(tokenizer, texts, **how)

    monkeypatch.setattr(tokenization, "_encoded", counting)
    scores(server, TEXTS)
    assert sorted(Counter(encoded).values()) == [1, 1, 1, 2, 2]
    encoded.clear()
    cut = "great film " * 40  # 80 words, of which 30 are read
    assert server.post("/predict", {"inputs": cut, "truncate": False}).status == 422
    assert encoded == [cut]


def test_auto_takes_the_threshold_of_the_manifest_and_a_reload_takes_a_new_one(
    serve_sources: Callable[..., Running],
    tiny_student: Bundle,
    tiny_fallback: Bundle,
    tiny_splits: Splits,
    copied: Callable[[Bundle], Bundle],
) -> None:
    student, settings = copied(tiny_student), ServeSettings(port=0, drain_s=0)
    source = cascade_source("both", student.path, tiny_fallback.path, settings.limits_with({}), min_confidence="auto")
    with pytest.raises(BundleError, match="potstill cascade"):
        source.open(student.path)
    set_cascade(student, tiny_fallback, validation=tiny_splits.validation, wanted_agreement=0.9)
    server = serve_sources([source], settings, {"POTSTILL_ADMIN_TOKENS": "admin-token"})
    entry = Bundle.open(student.path).manifest.cascade
    assert entry is not None
    about = server.ask("GET", "/info").json["models"]["both"]
    assert about["cascade"]["min_confidence"] == entry.min_confidence
    assert about["cascade"]["texts"] == 0  # the probes are nobody's

    scores(server, TEXTS)
    bearer = {"authorization": "Bearer admin-token"}
    bare = json.dumps({"bundle": str(tiny_student.path)}).encode()
    assert server.ask("POST", "/admin/reload", bare, content_type="application/json", **bearer).status == 409
    assert server.ask("GET", "/info").json["models"]["both"]["version"] == about["version"]
    assert server.ask("POST", "/admin/reload", b"{}", content_type="application/json", **bearer).status == 200
    assert server.ask("GET", "/info").json["models"]["both"]["cascade"]["texts"] == 5  # counted since the server started


def test_a_text_that_is_too_long_for_the_student_is_said_to_be_cut(
    serve_sources: Callable[..., Running], tiny_student: Bundle, tiny_fallback: Bundle
) -> None:
    settings = ServeSettings(port=0, drain_s=0)
    source = cascade_source("both", tiny_student.path, tiny_fallback.path, settings.limits_with({}), min_confidence=0.9)
    server = serve_sources([source], settings)
    long = "great film " * 100
    answered = server.post("/predict", {"inputs": long, "truncate": True})
    assert (answered.status, answered.headers["x-truncated-texts"]) == (200, "1")
    assert server.post("/predict", {"inputs": long}).status == 422


def test_what_cannot_be_honoured_is_refused(tiny_student: Bundle, tiny_fallback: Bundle) -> None:
    with pytest.raises(SettingsError, match="--fallback"):
        serve(settings=ServeSettings(fallback=tiny_fallback.path), model=(f"tiny={tiny_student.path}",))
    limits = ServeSettings(precision="fp32").limits_with({})
    with pytest.raises(SettingsError, match="--precision"):
        cascade_source("both", tiny_student.path, tiny_fallback.path, limits, min_confidence=0.5)
    limits = ServeSettings(long_texts="windows").limits_with({})
    with pytest.raises(SettingsError, match="windows"):
        cascade_source("both", tiny_student.path, tiny_fallback.path, limits, min_confidence=0.5)
