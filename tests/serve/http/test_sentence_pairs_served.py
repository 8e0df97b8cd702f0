"""A bundle of sentence pairs behind the server: each protocol that has pairs gives the answers of the classifier."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from served import Running

from distill.bundle import MANIFEST, Bundle
from distill.classifier import predict
from distill.data import Dataset, Splits
from export.layouts import triton_config
from export.pipeline import export_bundle
from export.runtime.sessions import OnnxClassifier
from export.settings import ExportSettings

PAIRS = [("a lovely film", "a dull plot"), ("a dull plot", "a lovely film"), ("great", "boring and stale")]


@pytest.fixture
def pair_bundle(copied: Callable[[Bundle], Bundle], tiny_unexported: Bundle, tiny_splits: Splits) -> Bundle:
    """Return a student of single texts exported as one of pairs: its answers are poor, but differ by the type of a token."""
    bundle = copied(tiny_unexported)
    (bundle.path / MANIFEST).write_bytes(bundle.manifest.model_copy(update={"pairs": "typed"}).to_bytes())
    validation = tiny_splits.validation
    halves = [text.split() for text in validation.single_texts()]
    texts = tuple((" ".join(words[:4]), " ".join(words[4:])) for words in halves)
    data = Dataset(texts, validation.label_ids, validation.labels, "pairs")
    return export_bundle(Bundle.open(bundle.path), validation=data, settings=ExportSettings(precisions=("fp32",)))


def test_pairs_get_the_answers_of_the_classifier(pair_bundle: Bundle, serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(pair_bundle.path)
    expected = predict(OnnxClassifier.open(pair_bundle), PAIRS)
    assert np.ptp([answer.score for answer in expected]) > 1e-4
    for (first, second), answer in zip(PAIRS, expected, strict=True):
        (hugging_face,) = server.post("/", {"inputs": {"text": first, "text_pair": second}}).json
        best = hugging_face[0] if isinstance(hugging_face, list) else hugging_face
        assert (best["label"], best["score"]) == (answer.label, pytest.approx(answer.score, abs=1e-5))
    batch = server.post("/predict", {"inputs": [list(pair) for pair in PAIRS]}).json
    assert [(row[0]["label"], row[0]["score"]) for row in batch] == [
        (answer.label, pytest.approx(answer.score, abs=1e-5)) for answer in expected
    ]


def test_the_config_for_triton_names_the_third_input(pair_bundle: Bundle, tiny_student: Bundle) -> None:
    assert "token_type_ids" in triton_config(pair_bundle, name="pairs", precision="int8")
    assert "token_type_ids" not in triton_config(tiny_student, name="single", precision="int8")


def test_single_texts_are_still_answered(pair_bundle: Bundle, serve_bundle: Callable[..., Running]) -> None:
    assert serve_bundle(pair_bundle.path).post("/", {"inputs": "a lovely film"}).status == 200
