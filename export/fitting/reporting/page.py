"""The HTML page of a run: what to deploy, and the evidence for it, in one file that needs no other and no network."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

import jinja2

from distill.evaluation.scores import metric_words
from distill.storage import write_atomically
from export.fitting.choose import MEGABYTE
from export.fitting.reporting.answers import in_words, unsure_words
from export.fitting.reporting.picture import calibration_picture, cost_pictures, floors_below, score_pictures
from export.fitting.reporting.result import Disagreement, FitReport, FormResult, Score
from export.fitting.reporting.summary import (
    STATUS_WORDS,
    against_floor,
    best_of,
    interval,
    megabytes,
    number,
    percent,
    reference_words,
    score_of,
)

PAGE: Final = "report.html"

_TEMPLATE: Final = Path(__file__).with_name("fit.html.jinja")
_MARKS: Final = {"winner": "✓", "finalist": "○", "eliminated": "-", "over_budget": "✕", "failed_gate": "!"}
_MAX_CHARACTERS: Final = 600


def write_page(out: Path, report: FitReport) -> None:
    """Write `report.html` to the folder of a run."""
    write_atomically(out / PAGE, html_of(report, out))


def html_of(report: FitReport, out: Path) -> str:
    """Return the page.

    Args:
        report: The result of the run.
        out: The folder of the run, for the commands that deploy its student.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "percent": percent, "megabytes": megabytes, "interval": interval}
    scores = score_pictures(report)
    student = out / "student"
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        headline=_headline(report),
        metric=metric_words(report.metric),
        tiles=_tiles(report),
        pictures=scores or cost_pictures(report),
        scored=bool(scores),
        outside=any(form.status == "over_budget" and score_of(form, report.measured_on) for form in report.forms),
        floors_below=[(reference_words(each), score_of(each, report.measured_on)) for each in floors_below(report)],
        references=[
            (reference_words(each), each, each.validation, score_of(each, report.measured_on))
            for each in (report.teacher, *((report.control,) if report.control else ()), *report.floors)
        ],
        unsure_words=unsure_words(report.unsure, report.metric) if report.unsure else "",
        human_words=in_words(report.human_labels, _winner_score(report)),
        marks=_MARKS,
        status_words=STATUS_WORDS,
        against_floor=against_floor(report),
        binding=_binding(report),
        nearest=[form for form in report.forms if form.name in report.nearest],
        per_label=report.per_label,
        disagreements=[(each, _who_is_right(each), _shortened(each.text)) for each in report.disagreements],
        calibration=calibration_picture(report.calibration),
        total_min=sum(report.minutes.values()),
        serve=f"potstill serve {shlex.quote(str(student))}",
        ship=f"potstill export {shlex.quote(str(student))} --layout bundle --layout-out shipped",
        python=(
            "from distill import predict\nfrom export import OnnxClassifier\n"
            f'predict(OnnxClassifier.open({str(student)!r}), ["a text"])'
        ),
    )


def _headline(report: FitReport) -> str:
    if report.winner is None:
        return "No student fits the budget"
    best = best_of(report.floors)
    if report.floor_wins and best is not None and best.name == "majority":
        return "No better than the commonest label"
    if report.floor_wins:
        return "A simpler classifier is as good"
    return "A student fits the budget"


def _tiles(report: FitReport) -> list[tuple[str, str, str]]:
    """Return (figure, what it is, what it compares with) of the winner."""
    winner = next((form for form in report.forms if form.name == report.winner), None)
    if winner is None:
        return []
    score, teacher = score_of(winner, report.measured_on), report.teacher
    found = []
    if score is not None:
        found.append((f"{score.value:.3f}", metric_words(report.metric), f"95 % interval {interval(score)}"))
    if winner.kept is not None:
        of_teacher = score_of(teacher, report.measured_on)
        beside = f"teacher {of_teacher.value:.3f}" if of_teacher and report.metric == "macro_f1" else ""
        found.append((percent(winner.kept), "of the teacher's macro-F1", beside))
    ms = winner.predicted_ms if winner.measured_ms is None else winner.measured_ms
    faster = (
        f"{teacher.p50_ms / ms:,.0f} times faster than the teacher" if teacher.p50_ms and ms else _budget_words(report, "ms")
    )
    found.append((f"{ms:.2f} ms", "for one text, one thread", faster))
    size = winner.predicted_bytes if winner.measured_bytes is None else winner.measured_bytes
    smaller = f"teacher {megabytes(teacher.size_bytes)} MB" if teacher.size_bytes else _budget_words(report, "MB")
    found.append((f"{megabytes(size)} MB", "to ship", smaller))
    return found


def _budget_words(report: FitReport, unit: str) -> str:
    limit = report.budget.max_ms if unit == "ms" else report.budget.max_mb
    return "no limit was given" if limit is None else f"budget {limit:g} {unit}"


def _winner_score(report: FitReport) -> Score | None:
    winner = next((form for form in report.forms if form.name == report.winner), None)
    return None if winner is None else score_of(winner, report.measured_on)


def _binding(report: FitReport) -> list[str]:
    """Return a sentence for each budget that could not be met: what was asked for, and what comes nearest."""
    forms, budget, sentences = report.forms, report.budget, []
    if "max_ms" in report.binding and budget.max_ms is not None and forms:
        form = min(forms, key=_ms_of)
        sentences.append(f"--max-ms {budget.max_ms:g}: the fastest student, {form.name}, takes {_ms_of(form):.2f} ms.")
    if "max_mb" in report.binding and budget.max_mb is not None and forms:
        form = min(forms, key=_bytes_of)
        sentences.append(
            f"--max-mb {budget.max_mb:g}: the smallest student, {form.name}, ships {_bytes_of(form) / MEGABYTE:.1f} MB."
        )
    if "min_kept" in report.binding and budget.min_kept is not None:
        kept = [form for form in forms if form.kept is not None]
        best = max(kept, key=lambda form: form.kept or 0.0, default=None)
        nearest = f": the best student, {best.name}, keeps {percent(best.kept)} of the teacher's macro-F1" if best else ""
        sentences.append(f"--min-kept {budget.min_kept:g}{nearest}.")
    return sentences


def _ms_of(form: FormResult) -> float:
    return form.predicted_ms if form.measured_ms is None else form.measured_ms


def _bytes_of(form: FormResult) -> int:
    return form.predicted_bytes if form.measured_bytes is None else form.measured_bytes


def _who_is_right(each: Disagreement) -> str:
    if each.student == each.true:
        return "the student is right"
    return "the teacher is right" if each.teacher == each.true else "both are wrong"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
