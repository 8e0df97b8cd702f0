"""Rows as tables of text: column names, rounded cells, and a sentence. No drawing library is used here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill.evaluation.intervals import Estimate

ABSENT = "-"

Cell = Callable[[Mapping[str, Any]], str]
Table = tuple[Sequence[str], list[list[str]]]
"""Column names, and the rows of cells."""

_CELLS: dict[str, Cell] = {
    "classifier": lambda row: row["name"].replace("_", " "),
    "runs on": lambda row: ABSENT if row["runtime"] == "none" else f"{row['runtime']} {row['precision']}",
    "macro-F1": lambda row: f"{row['macro_f1']:.4f}",
    "95 % interval": lambda row: f"{row['macro_f1_interval'][0]:.3f}-{row['macro_f1_interval'][1]:.3f}",
    "accuracy": lambda row: f"{row['accuracy']:.4f}",
    "kept": lambda row: _spelled(row["retention"], "{:.1%}"),
    "agrees": lambda row: _spelled(row["agreement"], "{:.1%}"),
    "calibration error": lambda row: f"{row['expected_calibration_error']:.4f}",
    "p50 ms": lambda row: _time(row, "p50_ms", "{:.2f}"),
    "p90 ms": lambda row: _time(row, "p90_ms", "{:.2f}"),
    "p99 ms": lambda row: _time(row, "p99_ms", "{:.2f}"),
    "faster": lambda row: _time(row, "p50_ratio_teacher", "{:,.1f}x"),
    "texts/s": lambda row: _time(row, "texts_per_second", "{:,.0f}"),
    "ships MB": lambda row: _spelled(row["size_bytes"], "{:.1f}", unit=1e6),
    "cold start s": lambda row: _spelled(row.get("cold_start_s"), "{:.2f}"),
    "memory MB": lambda row: _spelled(row.get("peak_rss_bytes"), "{:,.0f}", unit=1e6),
    "answers": lambda row: row["name"],
    "as the fallback": lambda row: f"{row['agreement_with_fallback']:.1%}",
    "by the student": lambda row: f"{row['student_share']:.1%}",
}

SPEED_COLUMNS = ("p50 ms", "p90 ms", "p99 ms", "faster", "texts/s", "ships MB", "cold start s", "memory MB")
COLUMNS = ("classifier", "runs on", "macro-F1", "95 % interval", "kept", "agrees", *SPEED_COLUMNS)
EVAL_COLUMNS = ("classifier", "runs on", "macro-F1", "95 % interval", "accuracy", "kept", "agrees", "calibration error")
CASCADE_COLUMNS = ("answers", "macro-F1", "as the fallback", "by the student")
CONFUSED_COLUMNS = ("classifier", "true label", "given", "texts", "of its texts")
MOST_LABELS = 12
"""With more labels than this, the most frequent mistakes are shown instead of the whole confusion matrix."""


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> Table:
    """Return a table with one row for each row of results; a figure that was not measured is a dash."""
    return columns, [[_CELLS[name](row) for name in columns] for row in rows]


def estimate_of(row: Mapping[str, Any], name: str) -> Estimate:
    """Return a figure of a row with its interval; one that has none is its own low and high end."""
    found = row[name]
    if isinstance(found, Mapping):
        return Estimate(found["value"], found["low"], found["high"])
    return Estimate(found, *(row.get(f"{name}_interval") or (found, found)))


def per_class_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with one row for each classifier and label."""
    return ("classifier", "label", "precision", "recall", "F1", "texts"), [
        [_named(row), label, *(f"{figures[name]:.4f}" for name in ("precision", "recall", "f1")), str(figures["support"])]
        for row in rows
        for label, figures in row["per_class"].items()
    ]


def confusion_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the confusion matrix of each classifier as one table; it has no rows if no classifier has a matrix.

    With more than `MOST_LABELS` labels: the most frequent mistakes of each classifier, at most `MOST_LABELS` of them.

    Args:
        rows: Rows; those without a confusion matrix (several labels per text) are left out.
    """
    rows = [row for row in rows if row.get("confusion")]
    labels = list(rows[0]["per_class"]) if rows else []
    if len(labels) > MOST_LABELS:
        return CONFUSED_COLUMNS, [cells for row in rows for cells in _commonest_mistakes(row, labels)]
    cells = [
        [_named(row), label, *(f"{count} ({count / max(1, sum(counts)):.1%})" for count in counts)]
        for row in rows
        for label, counts in zip(labels, row["confusion"], strict=True)
    ]
    return ["classifier", "true label", *(f"given {label}" for label in labels)], cells


def markdown_of(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] = COLUMNS) -> str:
    """Return the rows as a Markdown table with some of the columns."""
    _, cells = table_of(rows, columns)
    lines = [" | ".join(each) for each in (columns, *cells)]
    return "\n".join([f"| {lines[0]} |", "|---|---|" + "--:|" * (len(columns) - 2), *(f"| {line} |" for line in lines[1:])])


def verdict_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the student keeps and gains in a sentence, and whether distillation helped."""
    found = {(row["name"], row["precision"]): row for row in rows}
    teacher, student = found["teacher", "fp32"], found["student", "int8"]
    sentence = (
        f"The int8 student keeps {student['retention']:.1%} of the teacher's macro-F1 ({student['macro_f1']:.3f} of "
        f"{teacher['macro_f1']:.3f}), answers {student['p50_ratio_teacher']:.1f} times faster and ships "
        f"{teacher['size_bytes'] / student['size_bytes']:.1f} times fewer bytes."
    )
    fp32, control = found.get(("student", "fp32")), found.get(("student_no_distillation", "fp32"))
    if fp32 is None or control is None:
        return sentence
    gain, (low, high) = fp32["macro_f1"] - control["macro_f1"], control["macro_f1_interval"]
    judged = "one seed cannot tell this from zero"
    if abs(gain) >= (high - low) / 2:
        judged = "more than half the 95 % interval of this test set"
    return f"{sentence} Against the same student trained without the teacher's answers it differs by {gain:+.4f}: {judged}."


def _commonest_mistakes(row: Mapping[str, Any], labels: Sequence[str]) -> list[list[str]]:
    mistakes = sorted(
        (-count, true, given)
        for true, counts in enumerate(row["confusion"])
        for given, count in enumerate(counts)
        if count and given != true
    )
    return [
        [_named(row), labels[true], labels[given], str(-count), f"{-count / sum(row['confusion'][true]):.1%}"]
        for count, true, given in mistakes[:MOST_LABELS]
    ]


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['name'].replace('_', ' ')} {row['precision']}"


def _time(row: Mapping[str, Any], name: str, pattern: str) -> str:
    """Format a time or rate; a classifier that computes nothing, like the majority class, has none."""
    return ABSENT if row["runtime"] == "none" else _spelled(row.get(name), pattern)


def _spelled(value: float | None, pattern: str, *, unit: float = 1) -> str:
    return ABSENT if value is None else pattern.format(value / unit)
