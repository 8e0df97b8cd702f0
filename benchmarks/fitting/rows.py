"""Rows of the `fit` scenario: what a report of `potstill fit` says, as plain values."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from distill.bundle import Bundle
from distill.data import Splits
from export.fitting.reporting.result import FitReport, FormResult, Reference, Score
from export.fitting.training import ASSISTANTS, TRIED

QUARTER: Final = "quarter"


def report_part(report: FitReport) -> dict[str, Any]:
    """Return the result of a fit: teacher, student and TF-IDF with their intervals, costs, forms and minutes."""
    winner = next((form for form in report.forms if form.name == report.winner), None)
    tfidf = next((floor for floor in report.floors if floor.name == "tfidf"), None)
    return {
        "effort": report.effort,
        "metric": report.metric,
        "budget": asdict(report.budget),
        "num_texts": report.num_texts,
        "teacher": _reference(report.teacher),
        "student": None if winner is None else _form(winner),
        "tfidf": None if tfidf is None else _reference(tfidf),
        "control": None if report.control is None else _reference(report.control),
        "floor_wins": report.floor_wins,
        "forms": [_form(form) for form in report.forms],
        "minutes": report.minutes,
    }


def texts_part(splits: Splits) -> dict[str, Any]:
    """Return what the texts of a set are: how many labels, how rare the rarest is, how long a text is."""
    counts = splits.train.counts.values()
    lengths = sorted(len(text.split()) for text in splits.train.single_texts())
    return {
        "num_labels": len(splits.train.labels),
        "rarest_label_share": min(counts) / sum(counts),
        "median_words": lengths[len(lengths) // 2],
        "notes": list(splits.notes),
    }


def trainings(out: Path, *, rounds: bool) -> dict[str, float]:
    """Return the seconds of training of each student and assistant that a fit made, the control left out.

    Args:
        out: Folder of the fit.
        rounds: Whether the first rounds of successive halving count, too.
    """
    tried = out / TRIED
    folders = [*tried.glob("*-seed-*"), *(tried / ASSISTANTS).glob("*-seed-*")]
    if rounds:
        folders += (tried / QUARTER).glob("*-seed-*")
    return {str(folder.relative_to(tried)): Bundle.open(folder).manifest.training_s for folder in sorted(folders)}


def _reference(reference: Reference) -> dict[str, Any]:
    return {**_score(reference.test), "p50_ms": reference.p50_ms, "size_bytes": reference.size_bytes}


def _form(form: FormResult) -> dict[str, Any]:
    return {
        "form": form.name,
        "status": form.status,
        **_score(form.test),
        "validation": None if form.validation is None else form.validation.value,
        "kept": form.kept,
        "p50_ms": form.measured_ms,
        "size_bytes": form.measured_bytes,
        "predicted_ms": form.predicted_ms,
        "predicted_bytes": form.predicted_bytes,
        "training_s": form.training_s,
    }


def _score(score: Score | None) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None} if score is None else asdict(score)
