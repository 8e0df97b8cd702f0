"""Rows of the `fit` scenario: what a report of `potstill fit` says, as plain values, and the row files of a work folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from distill.bundle import Bundle
from distill.data import Splits
from distill.storage import write_atomically
from export.fitting.reporting.result import FitReport, FormResult, Reference, Score
from export.fitting.training import ASSISTANTS, TRIED
from export.measure.circumstances import circumstances

QUARTER: Final = "quarter"
CIRCUMSTANCES: Final = ("git_commit", "git_dirty", "cpu", "int8_instruction_set", "affinity", "load_average_1m")
"""Of each row: rows may be made on different days."""


@dataclass(frozen=True)
class RowFiles:
    """One file per finished row, so that a run resumes where it stopped.

    Attributes:
        folder: Holds the files.
    """

    folder: Path

    def all(self, *, earlier: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """Return all finished rows, sorted by name.

        Args:
            earlier: Rows of an earlier result; each that is not here is kept as it is.
        """
        here = [json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob("*.json")]
        rows = {row["name"]: dict(row) for row in (*earlier, *here)}
        return [rows[name] for name in sorted(rows)]

    def has(self, name: str) -> bool:
        """Tell whether a row is finished."""
        return self._path(name).is_file()

    def get(self, name: str) -> dict[str, Any]:
        """Return a finished row."""
        return dict(json.loads(self._path(name).read_text(encoding="utf-8")))

    def keep(self, row: Mapping[str, Any]) -> None:
        """Write a finished row under its name, with the day and the circumstances under which it was made."""
        now = circumstances()
        made = {"measured_on": datetime.now(UTC).date().isoformat(), **{name: now[name] for name in CIRCUMSTANCES}}
        write_atomically(self._path(row["name"]), json.dumps({**row, "made": made}, allow_nan=False))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


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
    return {
        str(folder.relative_to(tried)): sum(float(epoch["seconds"]) for epoch in Bundle.open(folder).manifest.history)
        for folder in sorted(folders)
    }


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
