"""The result of a run as text: the verdict and the table of forms, for the terminal and for the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from distill.evaluation.scores import metric_words
from export.fitting.choose import MEGABYTE
from export.fitting.reporting.result import FitReport, FormResult, FormStatus, Reference, Score
from export.measure.tables import ABSENT, Table

STATUS_WORDS: Final[dict[FormStatus, str]] = {
    "winner": "chosen",
    "finalist": "trained, not chosen",
    "eliminated": "stopped early",
    "over_budget": "outside the budget",
    "failed_gate": "failed the int8 check",
}
REFERENCE_WORDS: Final = {
    "tfidf": "TF-IDF",
    "majority": "commonest label",
    "student_no_distillation": "control",
}


def summary_lines(report: FitReport, out: Path) -> list[str]:
    """Return the verdict, where the report is, and how to use the student.

    Args:
        report: The result of the run.
        out: Folder of the run.
    """
    student = shlex.quote(str(out / "student"))
    return [
        report.verdict,
        *against_floor(report),
        f"report  {out / 'report.html'}",
        f"student {out / 'student'}",
        f"try     potstill predict {student} 'some text'",
        f"serve   potstill serve {student}",
    ]


def against_floor(report: FitReport) -> list[str]:
    """Return a sentence on whether the chosen student is better than TF-IDF or the commonest label; none if nothing fits."""
    gap = report.floor_gap
    if gap is None:
        return []
    words = f"Against the best simple classifier: {gap.value:+.3f}, 95 % interval {gap.low:+.3f} to {gap.high:+.3f}."
    if gap.low <= 0 <= gap.high:
        return [f"{words} It includes 0, so these texts cannot tell the two apart."]
    return [f"{words} The student is {'better' if gap.low > 0 else 'worse'}."]


def best_of(floors: Sequence[Reference]) -> Reference | None:
    """Return the simple classifier with the best test score; of two that are equal, the commonest label."""
    return max(
        (floor for floor in floors if floor.test),
        key=lambda floor: (floor.test.value if floor.test else 0.0, floor.name == "majority"),
        default=None,
    )


def instead_of_the_student(floor: Reference) -> str:
    """Return what to do if this simple classifier is as good as the chosen student."""
    score = ABSENT if floor.test is None else f"{floor.test.value:.3f}"
    if floor.name == "majority":
        return f"No better than {floor.summary} ({score}): deploy nothing yet, and add texts of the rarer labels."
    return f"{floor.summary} is as good as the chosen student ({score}): deploy that, or add labelled texts."


def summary_table(report: FitReport) -> Table:
    """Return one row for the teacher, the control and each form, from the fastest form to the slowest."""
    columns = (
        "student",
        "status",
        "ms",
        "MB",
        f"{metric_words(report.metric)} ({report.measured_on})",
        "95 % interval",
        "kept",
    )
    others = [
        [
            reference_words(each),
            "reference",
            number(each.p50_ms, 2),
            megabytes(each.size_bytes),
            *_score_cells(score_of(each, report.measured_on)),
            ABSENT,
        ]
        for each in (report.teacher, *report.floors, *((report.control,) if report.control else ()))
    ]
    forms = [
        [
            form.name,
            STATUS_WORDS[form.status],
            number(form.predicted_ms if form.measured_ms is None else form.measured_ms, 2),
            megabytes(form.predicted_bytes if form.measured_bytes is None else form.measured_bytes),
            *_score_cells(score_of(form, report.measured_on)),
            percent(form.kept),
        ]
        for form in report.forms
    ]
    return columns, others + forms


def score_of(entry: FormResult | Reference, measured_on: str) -> Score | None:
    """Return the score on the texts that the report measured on."""
    return entry.test if measured_on == "test" else entry.validation or entry.test


def reference_words(reference: Reference) -> str:
    """Return the name that people read."""
    return REFERENCE_WORDS.get(reference.name, reference.name)


def number(value: float | None, digits: int) -> str:
    """Return a number with so many decimals, or a dash."""
    return ABSENT if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """Return a share as a percentage, or a dash."""
    return ABSENT if value is None else f"{value:.1%}"


def megabytes(size: int | None) -> str:
    """Return a size in megabytes, or a dash."""
    return ABSENT if size is None else f"{size / MEGABYTE:,.1f}"


def interval(score: Score | None) -> str:
    """Return the ends of the 95 % interval, or a dash."""
    return ABSENT if score is None else f"{score.low:.3f}-{score.high:.3f}"


def _score_cells(score: Score | None) -> list[str]:
    return [ABSENT if score is None else f"{score.value:.4f}", interval(score)]
