"""The cascade over two classifiers that say what they are told, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from distill.classifier import TextInput, predict
from distill.errors import DatasetError, GateError, SettingsError
from distill.evaluation.intervals import most_misses
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


@pytest.mark.parametrize(
    ("count", "share", "confidence", "misses"),
    [
        (98, 0.97, 0.95, -1),  # 0.05 ** (1 / 98) = 0.9699
        (99, 0.97, 0.95, 0),  # 0.05 ** (1 / 99) = 0.9702
        (20, 0.5, 0.95, 5),  # of 20 fair coins, at most 5 tails: 0.0207; at most 6: 0.0577
    ],
)
def test_as_many_may_differ_as_chance_seldom_stays_below(count: int, share: float, confidence: float, misses: int) -> None:
    assert most_misses(count, share, confidence=confidence) == misses


def agreeing_at(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability that student and fallback agree: the surer the student is, the likelier."""
    return 1 - 0.5 * np.exp(-strength)


def drawn(
    generator: np.random.Generator, *, count: int, num_labels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return logits of a student, one of which is its strength and the others 0; of its fallback; and labels."""
    strength = generator.exponential(2.0, count)
    top = generator.integers(0, num_labels, count)
    fallback = np.where(generator.uniform(size=count) < agreeing_at(strength), top, (top + 1) % num_labels)
    right = np.where(generator.uniform(size=count) < 0.9, fallback, (fallback + 1) % num_labels)
    names = np.eye(num_labels, dtype=np.float32)
    return (strength[:, None] * names[top]).astype(np.float32), 5 * names[fallback], right


@pytest.mark.parametrize("num_labels", [2, 4])
def test_the_promise_holds_as_often_as_promised_and_costs_little(num_labels: int) -> None:
    """400 validation sets of 800 texts; what is promised is checked against the true probabilities."""
    generator = np.random.default_rng(num_labels)
    held, shares = [], []
    for _ in range(400):
        logits, fallback, right = drawn(generator, count=800, num_labels=num_labels)
        found = choose_threshold(
            student_logits=logits,
            fallback_logits=fallback,
            labels=right,
            problem_type="single_label_classification",
            wanted_agreement=0.95,
            graphs=GRAPHS,
            confidence=0.95,
        )
        assert found.agreement_bound is not None
        assert found.agreement_bound >= 0.95
        # The strength s of that confidence: exp(s / T) / (exp(s / T) + labels - 1)
        lowest = found.temperature * (odds(found.min_confidence) + math.log(num_labels - 1))
        # Strengths above s have the share exp(-s / 2), and differ in half of exp(-3 s / 2) / 3.
        held.append(math.exp(-1.5 * lowest) / 6 <= 0.05)
        shares.append(math.exp(-lowest / 2))
    # An oracle takes all above the s with exp(-3 s / 2) / 6 = 0.05: the share exp(-s / 2) = 0.3 ** (1 / 3).
    oracle = 0.3 ** (1 / 3)
    # 0.95 is promised; three standard errors of 400 drawings are 3 * sqrt(0.95 * 0.05 / 400) = 0.033.
    assert np.mean(held) >= 0.95 - 0.033
    assert np.mean(held) < 1  # it promises no less than it can
    assert np.mean(shares) >= 0.8 * oracle


def test_no_promise_is_made_that_the_texts_do_not_show() -> None:
    def chosen(count: int, differing: int, wanted: float) -> Any:
        student, labels = logits_of([0.9] * count), np.ones(count, dtype=np.int64)
        return choose_threshold(
            student_logits=student,
            fallback_logits=logits_of([0.1] * differing + [0.9] * (count - differing)),
            labels=labels,
            problem_type="single_label_classification",
            wanted_agreement=wanted,
            graphs=GRAPHS,
            confidence=0.95,
        )

    with pytest.raises(GateError, match=r"98 texts cannot show an agreement of 0.97 with confidence 0.95: it takes 99"):
        chosen(98, 0, 0.97)
    assert chosen(99, 0, 0.97).student_share == 1
    with pytest.raises(GateError, match=r"no threshold keeps an agreement of 0.97 .*: of 99 texts, 0 may differ, and more do"):
        chosen(99, 1, 0.97)
    with pytest.raises(SettingsError, match="which no number of texts shows"):
        chosen(99, 0, 1.0)
