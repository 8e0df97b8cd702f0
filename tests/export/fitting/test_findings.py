"""What a run that trained students in vain reports, and what it means to keep a share of the teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.evaluation.floors import MajorityClassifier
from export.fitting.choose import Costs, Validated, broken
from export.fitting.graphs import validated
from export.fitting.plan import Plan
from export.fitting.reporting.details import calibration, disagreements
from export.fitting.reporting.findings import Evidence, write_fit_report
from export.fitting.reporting.page import PAGE
from export.fitting.reporting.result import Budget
from export.fitting.scores import Scorer
from export.fitting.weighing import Candidates, Form
from export.runtime.sessions import OnnxClassifier
from export.settings import FitSettings

DATA = Dataset(("a", "b", "c", "d"), np.array([0, 0, 0, 1]), ("negative", "positive"), "four texts")
RIGHT = np.eye(2, dtype=np.float32)[DATA.label_ids]


@pytest.fixture
def always_negative(tiny_teacher: Bundle, monkeypatch: pytest.MonkeyPatch) -> dict[str, Validated]:
    """Return what the validation texts say of a student that always answers negative, chosen by the recall of that label."""
    monkeypatch.setattr(OnnxClassifier, "open", lambda *_, **__: MajorityClassifier(DATA))
    return validated({"static/int8": tiny_teacher}, Scorer(DATA, "recall:negative"), of_teacher=RIGHT)


def test_what_is_kept_is_macro_f1_whatever_the_metric_is(always_negative: dict[str, Validated]) -> None:
    found = always_negative["static/int8"]
    assert found.score.value == 1  # the recall
    assert found.kept == pytest.approx((6 / 7 + 0) / 2)  # F1 of negative: precision 3/4, recall 1
    assert broken(found, Costs(1.0, 1), Budget(min_kept=0.9)) == ("min_kept",)


def test_a_refused_run_shows_the_students_that_it_trained_with_what_each_kept(
    always_negative: dict[str, Validated], tmp_path: Path
) -> None:
    costs = Costs(1.0, 4_000_000)
    forms = (Form("static", "int8", costs), Form("2-layers", "int8", Costs(9.0, 4_000_000)))
    candidates = Candidates(forms, {}, {}, step_s={}, teacher_answer_s=1.0, max_length=16, truncated=0.0)
    budget = Budget(max_ms=2.0, min_kept=0.9)
    evidence = Evidence(
        splits=Splits(DATA, DATA, DATA),
        settings=FitSettings(metric="recall:negative", max_ms=2.0, min_kept=0.9),
        budget=budget,
        plan=Plan(candidates, budget, {}, "quick"),
        floors={},
        minutes={},
        teacher_on_validation=RIGHT,
        validation=always_negative,
        costs={"static/int8": costs},
        binding=("min_kept",),
        nearest=("static/int8",),
    )
    report = write_fit_report(evidence, tmp_path)
    static, two = report.forms
    assert static.kept == pytest.approx(3 / 7, abs=1e-6)
    assert static.validation is not None
    assert [static.test, two.kept, two.validation] == [None, None, None]
    assert {static.status, two.status} == {"over_budget"}
    assert report.measured_on == "validation"
    assert "Nearest: static/int8: 1.00 ms, 4.0 MB, keeps 42.9% of the teacher's macro-F1" in report.verdict
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert "the best student, static/int8, keeps 42.9% of the teacher&#39;s macro-F1" in page
    assert "Hollow circles were trained, but do not keep the budget" in page
    assert "taken before training" not in page


def test_with_several_labels_texts_differ_in_any_label_and_every_answer_is_calibrated() -> None:
    data = Dataset(("a", "b", "c"), np.array([[1, 1], [0, 0], [1, 0]]), ("long", "sad"), "three texts")
    student = np.array([[2, 1], [-3, 0.5], [1, -1]], dtype=np.float32)  # both, sad, long
    teacher = np.array([[-1, -1], [-1, -1], [1, -1]], dtype=np.float32)  # none, none, long
    first, second = disagreements(data, student, teacher)
    assert (first.text, first.true, first.teacher, first.student) == ("a", "long | sad", "no label", "long | sad")
    assert first.student_probability == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-4)  # of long, the surer of the two
    assert (second.text, second.true, second.student) == ("b", "no label", "sad")
    assert second.student_probability == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-4)  # not that of long, which is 0.95
    bins = calibration(data, student)
    assert sum(each.count for each in bins) == 6
    (wrong,) = [each for each in bins if each.low == 0.6]
    assert (wrong.count, wrong.accuracy) == (1, 0.0)  # 0.62 that b is sad
