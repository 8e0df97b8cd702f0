"""The cascade over two classifiers that say what they are told, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.classifier import TextInput, predict
from distill.errors import DatasetError, SettingsError
from distill.evaluation.metrics import fit_temperature
from distill.labels import Logits, ProblemType
from export.runtime.cascade import NEVER_SURE, Cascade, choose_threshold, confidences

GRAPHS = {"student_graph_sha256": "0" * 64, "fallback_graph_sha256": "1" * 64}

NO, YES = "no", "yes"


class Says:
    """Gives each text the logit difference that it is told; positive means yes."""

    def __init__(
        self, told: Mapping[str, float], *, labels: tuple[str, ...] = (NO, YES), of: ProblemType | None = None
    ) -> None:
        self.told, self.labels = told, labels
        self.problem_type: ProblemType = of or "single_label_classification"
        self.asked: list[list[TextInput]] = []

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        self.asked.append(list(texts))
        return np.array([[0.0, self.told[str(text)]] for text in texts], dtype=np.float32).reshape(len(texts), 2)

    def digest(self) -> str:
        return repr(sorted(self.told.items()))


def odds(share: float) -> float:
    """The logit difference whose softmax gives this share to yes."""
    return math.log(share / (1 - share))


def logits_of(shares: Sequence[float]) -> Logits:
    return np.array([[0.0, odds(share)] for share in shares], dtype=np.float32)


def test_the_digest_changes_with_members_threshold_and_temperature() -> None:
    one, other = Says({"a": 1.0}), Says({"a": 2.0})
    digests = [
        Cascade(*pair, min_confidence=sure, temperature=temperature).digest()
        for pair in ((one, other), (other, one))
        for sure in (0.8, 0.9)
        for temperature in (1.0, 2.0)
    ]
    assert len(set(digests)) == 8
    assert Cascade(one, other, min_confidence=0.8).digest() == digests[0]


def test_the_fallback_answers_what_the_student_is_unsure_of_and_nothing_else() -> None:
    student = Says({"sure yes": odds(0.9), "unsure": odds(0.6), "sure no": odds(0.05)})
    fallback = Says({"sure yes": odds(0.1), "unsure": odds(0.2), "sure no": odds(0.9)})
    told: list[tuple[str, int]] = []
    cascade = Cascade(student, fallback, min_confidence=0.8, on_answer=lambda member, texts, _: told.append((member, texts)))
    answers = predict(cascade, ["sure yes", "unsure", "sure no"])
    assert [(each.label, each.score) for each in answers] == [
        (YES, pytest.approx(0.9)),
        (NO, pytest.approx(0.8)),
        (NO, pytest.approx(0.95)),
    ]
    assert fallback.asked == [["unsure"]]
    assert told == [("student", 3), ("fallback", 1)]


def test_the_bounds_ask_never_and_always() -> None:
    told = {"a": 0.0, "b": 100.0}  # softmax of 100 is 1 in float32
    never, always = Says(told), Says(told)
    Cascade(Says(told), never, min_confidence=0).predict_logits(["a", "b"])
    Cascade(Says(told), always, min_confidence=NEVER_SURE).predict_logits(["a", "b"])
    assert (never.asked, always.asked) == ([], [["a", "b"]])
    assert Cascade(Says(told), always, min_confidence=0.9).predict_logits([]).shape == (0, 2)


def test_temperature_softens_the_students_answers_alone() -> None:
    both = {"a": odds(0.9), "b": odds(0.6)}
    logits = Cascade(Says(both), Says(both), min_confidence=0.7, temperature=2.0).predict_logits(["a", "b"])
    # a: halved log odds, 9 -> 3, so 0.75, is still sure; b: the square root of 1.5 gives 0.55, so the fallback's 0.6 stands
    assert logits[:, 1].tolist() == [pytest.approx(math.log(3)), pytest.approx(odds(0.6))]


def test_a_cascade_of_unlike_classifiers_is_refused() -> None:
    with pytest.raises(SettingsError, match="the student has labels"):
        Cascade(Says({}), Says({}, labels=(YES, NO)), min_confidence=0.5)
    with pytest.raises(SettingsError, match=r"the student .*the fallback "):
        Cascade(Says({}), Says({}, of="multi_label_classification"), min_confidence=0.5)
    with pytest.raises(SettingsError, match=r"the student .*the fallback "):
        Cascade(Says({}, of="regression"), Says({}, of="regression"), min_confidence=0.5)
    with pytest.raises(SettingsError, match="at least 0"):
        Cascade(Says({}), Says({}), min_confidence=math.nan)


def test_confidence_of_several_labels_is_that_of_the_least_sure_one() -> None:
    logits = np.array([[odds(0.9), odds(0.3)], [odds(0.99), odds(0.01)]], dtype=np.float32)
    assert confidences(logits, "multi_label_classification").tolist() == [pytest.approx(0.7), pytest.approx(0.99)]


def test_temperature_is_the_one_that_makes_confidence_true() -> None:
    # A student that says 0.9 and is right three times in four: the log odds of 0.9 over those of 0.75.
    logits, labels = logits_of([0.9] * 400), np.array([1, 1, 1, 0] * 100)
    assert fit_temperature(logits, labels) == pytest.approx(odds(0.9) / odds(0.75), rel=1e-3)


def test_the_threshold_is_the_lowest_that_keeps_the_wanted_agreement() -> None:
    student = logits_of([0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.55, 0.54, 0.53, 0.52])  # always yes, ever less sure
    fallback = logits_of([0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9])  # no at the fourth, sixth and ninth
    labels = np.array([1, 1, 1, 1, 0, 1, 0, 1, 0, 1])

    def chosen(wanted: float) -> tuple[float, float]:
        found = choose_threshold(
            student_logits=student,
            fallback_logits=fallback,
            labels=labels,
            problem_type="single_label_classification",
            wanted_agreement=wanted,
            graphs=GRAPHS,
        )
        cascade = Cascade(
            Says(dict(zip("abcdefghij", student[:, 1], strict=True))),
            Says(dict(zip("abcdefghij", fallback[:, 1], strict=True))),
            min_confidence=found.min_confidence,
            temperature=found.temperature,
        )
        same = cascade.predict_logits("abcdefghij").argmax(axis=1) == fallback.argmax(axis=1)
        assert same.mean() == pytest.approx(found.agreement)
        return found.student_share, found.agreement

    assert chosen(1.0) == (0.3, 1.0)  # the three before the first difference
    assert chosen(0.9) == (0.5, 0.9)  # one difference allowed, five texts until the second
    assert chosen(0.8) == (0.8, 0.8)
    assert chosen(0.7) == (1.0, 0.7)


def test_texts_as_sure_as_each_other_are_taken_together_or_not_at_all() -> None:
    student, fallback = logits_of([0.9, 0.8, 0.8, 0.7]), logits_of([0.9, 0.9, 0.1, 0.9])
    found = choose_threshold(
        student_logits=student,
        fallback_logits=fallback,
        labels=np.array([1, 1, 0, 1]),
        problem_type="single_label_classification",
        wanted_agreement=1.0,
        graphs=GRAPHS,
    )
    assert (found.student_share, found.agreement) == (0.25, 1.0)


def test_a_student_that_errs_where_it_is_surest_is_never_asked_alone() -> None:
    found = choose_threshold(
        student_logits=logits_of([0.9, 0.6]),
        fallback_logits=logits_of([0.1, 0.6]),
        labels=np.array([1, 1]),
        problem_type="single_label_classification",
        wanted_agreement=1.0,
        graphs=GRAPHS,
    )
    assert (found.min_confidence, found.student_share, found.agreement) == (NEVER_SURE, 0.0, 1.0)


@given(st.data())
def test_the_chosen_threshold_keeps_its_word(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    shares = st.lists(st.sampled_from([0.02, 0.2, 0.4, 0.45, 0.6, 0.75, 0.99]), min_size=count, max_size=count)
    student, fallback = logits_of(data.draw(shares)), logits_of(data.draw(shares))
    wanted = data.draw(st.sampled_from([0.5, 0.9, 0.95, 1.0]))
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    found = choose_threshold(
        student_logits=student,
        fallback_logits=fallback,
        labels=labels,
        problem_type="single_label_classification",
        wanted_agreement=wanted,
        graphs=GRAPHS,
    )
    assert found.agreement >= wanted - 1e-9
    calibrated = student / np.float32(found.temperature)
    sure = confidences(calibrated, "single_label_classification") >= found.min_confidence
    assert sure.mean() == pytest.approx(found.student_share)
    mixed = np.where(sure[:, None], calibrated, fallback)
    assert (mixed.argmax(axis=1) == fallback.argmax(axis=1)).mean() == pytest.approx(found.agreement)


def test_a_threshold_needs_texts_and_a_share() -> None:
    logits, of = logits_of([0.9]), "single_label_classification"
    with pytest.raises(SettingsError, match="agreement must be above 0"):
        choose_threshold(
            student_logits=logits,
            fallback_logits=logits,
            labels=np.array([1]),
            problem_type=of,
            wanted_agreement=1.5,
            graphs=GRAPHS,
        )
    with pytest.raises(DatasetError, match="rows of logits"):
        choose_threshold(
            student_logits=logits[:0],
            fallback_logits=logits[:0],
            labels=np.array([]),
            problem_type=of,
            wanted_agreement=0.9,
            graphs=GRAPHS,
        )
