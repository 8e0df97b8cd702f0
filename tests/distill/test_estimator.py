"""The scikit-learn estimator on the tiny task.

scikit-learn's `check_estimator` passes matrices of numbers, which a text classifier must refuse. Only its checks that
construct, clone, print and set parameters run here. The properties it requires of fitted estimators (unchanged parameters,
no influence of row order or of other rows, pickling, any kind of label) are tested below with texts. Sample weights,
sparse matrices, numbers of features and `partial_fit` do not exist here.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hugging_face import save_trained
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from tiny_task import tiny_texts
from transformers import AutoModel, AutoTokenizer

import distill
from distill import DistilledClassifier, LineReporter
from distill.bundle import Bundle
from distill.classifier import predict
from distill.errors import DatasetError, SettingsError, TeacherError
from distill.models.loading import load_bundle

TEXTS, LABELS = zip(*tiny_texts(200, seed=4), strict=True)
FRESH, TRUTH = zip(*tiny_texts(60, seed=5), strict=True)
CHANGES: dict[str, Any] = {"epochs": 2, "learning_rate": 2e-3, "batch_size": 16, "augment": 1}
FAST: dict[str, Any] = {"recipe": "2-layers", "effort": "quick", "changes": CHANGES}


@pytest.fixture(scope="module")
def fitted(tiny_teacher: Bundle, tmp_path_factory: pytest.TempPathFactory) -> DistilledClassifier:
    """Return a fitted classifier; do not change it."""
    out = tmp_path_factory.mktemp("estimator") / "student"
    return DistilledClassifier(tiny_teacher.path, out=out, **FAST).fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def encoder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder without a head; a folder with one is a fine-tuned classifier."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    AutoModel.from_pretrained(tiny_model).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


# Parameters


@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_scikit_learns_own_check_holds(check: str) -> None:
    getattr(estimator_checks, check)("DistilledClassifier", DistilledClassifier())


def test_it_has_few_parameters() -> None:
    assert DistilledClassifier().get_params() == {
        "teacher": "builtin:minilm",
        "recipe": "2-layers",
        "effort": "standard",
        "seed": 0,
        "out": None,
        "validation_fraction": 0.1,
        "changes": None,
    }


def test_a_clone_has_the_parameters_and_is_not_fitted(fitted: DistilledClassifier) -> None:
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert copy.recipe == "2-layers"
    with pytest.raises(NotFittedError):
        copy.predict(FRESH)


def test_an_unknown_parameter_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="layers_kept"):
        DistilledClassifier(layers_kept=2)


def test_it_is_the_packages_and_a_classifier() -> None:
    assert distill.DistilledClassifier is DistilledClassifier
    assert is_classifier(DistilledClassifier())


# Fitted


def test_it_learns_and_ends_in_a_bundle(fitted: DistilledClassifier) -> None:
    assert fitted.score(FRESH, TRUTH) > 0.85
    bundle = Bundle.open(Path(fitted.out))
    assert bundle.manifest.to_bytes() == fitted.bundle_.manifest.to_bytes()
    assert bundle.manifest.settings["student"]["num_layers"] == 2
    answers = [answer.label for answer in predict(load_bundle(bundle), FRESH)]
    assert answers == fitted.predict(FRESH).tolist()


def test_probabilities_stand_in_the_order_of_the_classes(fitted: DistilledClassifier) -> None:
    shares = fitted.predict_proba(FRESH)
    assert shares.shape == (60, 2)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert fitted.classes_.tolist() == ["negative", "positive"]
    assert (fitted.classes_[shares.argmax(axis=1)] == fitted.predict(FRESH)).all()


def test_a_text_gets_its_answer_in_any_company_and_order(fitted: DistilledClassifier) -> None:
    whole = fitted.predict_proba(FRESH)
    assert fitted.predict_proba(FRESH[::-1])[::-1] == pytest.approx(whole, abs=1e-5)
    assert fitted.predict_proba(FRESH[7:9]) == pytest.approx(whole[7:9], abs=1e-5)


def test_fitting_leaves_the_parameters_alone(fitted: DistilledClassifier, tiny_teacher: Bundle) -> None:
    assert fitted.get_params() == DistilledClassifier(tiny_teacher.path, out=fitted.out, **FAST).get_params()


def test_arrays_and_series_of_texts_are_taken(fitted: DistilledClassifier) -> None:
    expected = fitted.predict(FRESH).tolist()
    assert fitted.predict(np.array(FRESH)).tolist() == fitted.predict(np.array(FRESH, dtype=object)).tolist() == expected


def test_a_fitted_classifier_is_pickled_with_its_folder(fitted: DistilledClassifier) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    assert again.predict(FRESH).tolist() == fitted.predict(FRESH).tolist()


def test_a_temporary_bundle_lives_as_long_as_its_classifier_and_is_pickled(tiny_teacher: Bundle) -> None:
    classifier = DistilledClassifier(tiny_teacher, **FAST).fit(TEXTS, LABELS)
    folder = classifier.bundle_.path
    assert Bundle.open(folder).manifest.to_bytes() == classifier.bundle_.manifest.to_bytes()
    answers, kept = classifier.predict_proba(FRESH), pickle.dumps(classifier)
    del classifier
    assert not folder.exists()
    again = pickle.loads(kept)
    assert again.predict_proba(FRESH) == pytest.approx(answers, abs=1e-6)
    assert again.bundle_.path != folder


def test_the_held_out_texts_are_kept_for_the_export(fitted: DistilledClassifier) -> None:
    assert len(fitted.validation_) == 20
    assert fitted.validation_.fingerprint() == fitted.bundle_.manifest.lineage.validation_fingerprint


def test_a_search_inside_a_pipeline_tries_recipes(tiny_teacher: Bundle) -> None:
    pipeline = Pipeline([("strip", FunctionTransformer(strip)), ("distil", DistilledClassifier(tiny_teacher, **FAST))])
    grid = {"distil__recipe": ["2-layers", "3-layers"]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(list(TEXTS), list(LABELS))
    made = search.best_estimator_["distil"].bundle_.manifest.settings["student"]
    assert made["num_layers"] == int(search.best_params_["distil__recipe"][0])
    assert search.score(list(FRESH), list(TRUTH)) > 0.7


def strip(texts: list[str]) -> list[str]:
    return [text.strip() for text in texts]


def test_without_a_teacher_one_is_made_and_numbers_may_be_labels(encoder: Path, tmp_path: Path) -> None:
    numbers = np.where(np.array(LABELS) == "positive", 10, 9)  # as names "10" sorts before "9"
    longer = {**FAST, "changes": {**CHANGES, "epochs": 8}}
    classifier = DistilledClassifier(str(encoder), out=tmp_path / "out", **longer)
    classifier.fit(TEXTS, numbers)
    assert classifier.classes_.tolist() == [9, 10]
    assert classifier.bundle_.labels == ("9", "10")
    assert classifier.score(FRESH, np.where(np.array(TRUTH) == "positive", 10, 9)) > 0.7
    manifest = Bundle.open(tmp_path / "out-teacher").manifest
    assert (manifest.role, manifest.settings["teacher"]["effort"]) == ("teacher", "quick")


def test_a_table_of_zeros_and_ones_makes_several_labels_a_text(encoder: Path) -> None:
    music = np.array(["music" in text.split() for text in TEXTS])
    table = np.stack([np.array(LABELS) == "positive", music], axis=1).astype(int)
    classifier = DistilledClassifier(str(encoder), **FAST).fit(TEXTS, table)
    given, shares = classifier.predict(FRESH), classifier.predict_proba(FRESH)
    assert given.shape == shares.shape == (60, 2)
    assert (given == (shares >= 0.5)).all()
    assert classifier.classes_.tolist() == [0, 1]
    assert classifier.bundle_.manifest.problem_type == "multi_label_classification"


def test_lists_of_labels_are_named_and_progress_is_printed_on_request(
    encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = [[label, *(["musical"] if "music" in text.split() else [])] for text, label in zip(TEXTS, LABELS, strict=True)]
    classifier = DistilledClassifier(str(encoder), **FAST).fit(TEXTS, lists, reporter=LineReporter())
    assert classifier.classes_.tolist() == ["musical", "negative", "positive"]
    assert classifier.predict(FRESH).shape == (60, 3)
    assert "student: epoch 2 of 2" in capsys.readouterr().err


def test_a_fine_tuned_classifier_is_adopted_and_its_labels_matched(tiny_teacher: Bundle, tmp_path: Path) -> None:
    folder = save_trained(tmp_path / "hf", tiny_teacher, ("LABEL_0", "LABEL_1"), flipped=True)
    classifier = DistilledClassifier(folder, **FAST).fit(TEXTS, LABELS)
    assert classifier.bundle_.labels == classifier.validation_.labels == ("positive", "negative")
    assert classifier.classes_.tolist() == ["negative", "positive"]
    assert classifier.score(FRESH, TRUTH) > 0.85


# Refusals


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (np.zeros((4, 3)), "X is a ndarray"),
        (np.zeros((4, 2)), "X, row 0"),
        ("one text", "X is a str"),
        (["fine", 3], "X, row 1: .*int"),
        (["fine", None], "X, row 1: .*NoneType"),
    ],
)
def test_what_is_not_a_row_of_texts_is_refused(fitted: DistilledClassifier, rows: Any, why: str) -> None:
    with pytest.raises(DatasetError, match=why):
        fitted.predict(rows)


def test_the_teachers_labels_must_be_those_of_y(tiny_teacher: Bundle) -> None:
    with pytest.raises(DatasetError, match="X, row 0: label 'bad' is not one of 'negative', 'positive'"):
        DistilledClassifier(tiny_teacher).fit(["one", "two"], ["bad", "good"])
    with pytest.raises(SettingsError, match="y has no positive"):
        DistilledClassifier(tiny_teacher).fit(["one", "two"], ["negative", "negative"])


def test_a_teacher_of_other_labels_is_found_out(tiny_teacher: Bundle) -> None:
    swapped = [{"negative": "positive", "positive": "negative"}[label] for label in LABELS]
    with pytest.raises(TeacherError, match="labels read as 'negative' -> 'positive'"):
        DistilledClassifier(tiny_teacher, **FAST).fit(TEXTS, swapped)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"changes": {"epochs": 0}}, "epochs.*got 0"),
        ({"changes": {"num_layers": 1}}, "--num-layers"),
        ({"recipe": "9-layers"}, "9-layers"),
        ({"validation_fraction": 1}, "validation_fraction.*1$"),
    ],
)
def test_a_parameter_out_of_range_is_refused_in_fit(parameters: dict[str, Any], why: str, tiny_teacher: Bundle) -> None:
    with pytest.raises(SettingsError, match=why):
        DistilledClassifier(tiny_teacher, **parameters).fit(TEXTS, LABELS)
