"""What is put side by side: forms of a bundle and the floors, with what each ships."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.errors import BundleError
from distill.models.loading import load_bundle
from export.measure.candidates import best_form, bundle_candidate, floor_candidates
from export.pipeline import strip
from export.settings import Form

Copied = Callable[[Bundle], Bundle]
FORMS: tuple[Form, ...] = ("pytorch", "fp32", "int8")


@pytest.mark.parametrize("form", FORMS)
def test_a_bundle_opens_in_each_form_and_answers_as_the_model_does(
    form: Form, tiny_student: Bundle, tiny_test: Dataset
) -> None:
    classifier = bundle_candidate(tiny_student, name="student", form=form).open(1)
    texts = tiny_test.texts[:16]
    expected = load_bundle(tiny_student).predict_logits(texts)
    assert classifier.labels == tiny_student.labels
    answers = np.concatenate([classifier.predict_logits([text]) for text in texts])
    np.testing.assert_allclose(answers, expected, atol=0.5 if form == "int8" else 1e-4)


def test_each_form_ships_what_it_needs_to_answer(tiny_student: Bundle) -> None:
    def size(*names: str) -> int:
        return sum((tiny_student.path / name).stat().st_size for name in names)

    sizes = {form: bundle_candidate(tiny_student, name="student", form=form).size_bytes for form in FORMS}
    assert sizes == {
        "pytorch": size("model.safetensors", "tokenizer.json", "config.json"),
        "fp32": size("model.onnx", "tokenizer.json", "manifest.json"),
        "int8": size("model_int8.onnx", "tokenizer.json", "manifest.json"),
    }


def test_one_bundle_in_two_precisions_is_told_apart(tiny_student: Bundle) -> None:
    candidates = [bundle_candidate(tiny_student, name="student", form=form) for form in FORMS]
    assert [candidate.key for candidate in candidates] == ["student fp32", "student fp32", "student int8"]
    assert [candidate.runtime for candidate in candidates] == ["pytorch", "onnxruntime", "onnxruntime"]
    assert len({candidate.num_parameters for candidate in candidates}) == 1


def test_the_best_form_is_the_smallest_that_is_there(tiny_student: Bundle, tiny_unexported: Bundle) -> None:
    assert best_form(tiny_student) == "int8"
    assert best_form(tiny_unexported) == "pytorch"


def test_a_form_that_is_not_there_is_refused_before_anything_is_measured(
    tiny_student: Bundle, tiny_unexported: Bundle, copied: Copied
) -> None:
    with pytest.raises(BundleError, match=r"has no model_int8\.onnx; run `potstill export"):
        bundle_candidate(tiny_unexported, name="student", form="int8")
    with pytest.raises(BundleError, match=r"model\.safetensors.*--strip"):
        bundle_candidate(strip(copied(tiny_student)), name="student", form="pytorch")


def test_floors_learn_from_the_training_texts_and_ship_no_files(tiny_splits: Splits) -> None:
    tfidf, majority = floor_candidates(tiny_splits.train)
    assert (tfidf.name, tfidf.runtime, majority.name, majority.runtime) == ("tfidf", "scikit-learn", "majority", "none")
    assert tfidf.size_bytes is majority.size_bytes is tfidf.bundle_path is majority.bundle_path is None
    texts = ["lovely great warm film", "dull awful stale plot"]
    assert tfidf.open(None).predict_logits(texts).argmax(axis=1).tolist() == [1, 0]
    assert len(set(majority.open(None).predict_logits(texts).argmax(axis=1).tolist())) == 1
