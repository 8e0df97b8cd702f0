"""The tables of `sst2` and `trec6` in Markdown: what was measured, and what others publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.field.figures import SINGLE, TEACHER_GRAPH
from benchmarks.field.published import PUBLISHED, Published
from benchmarks.field.study import TEACHER
from benchmarks.harness.scenario import markdown_table
from export.measure.points import picture_of
from export.measure.tables import ABSENT

_FLOORS: Final = ("tfidf", "majority")


def markdown_of_field(result: Mapping[str, Any]) -> str:
    """Return the page part of a result: one table, and how to read it."""
    parts = tuple(result["truth"])
    columns = ["model", *(f"{part} accuracy" for part in parts), "kept", "MB", "ms", "faster", "faster than DistilBERT int8"]
    teacher, *students = [_row(row, parts) for row in result["summary"]]
    single = [row for row in result["rows"] if row["measured"] == SINGLE]
    graph = [_timed_row(row, "teacher, fp32 graph", parts) for row in single if row["name"] == TEACHER_GRAPH]
    random = [_timed_row(row, f"{row['name']}, random weights", parts) for row in single if row.get("weights") == "random"]
    rows = [teacher, *graph, *students, *random]
    said = _said(result)
    if result["scenario"] == "sst2":
        rows += [_published_row(one) for one in PUBLISHED]
        said += (
            " Rows with a link are published by others and not measured here; T marks GLUE's hidden test set, and `faster` is "
            "their own comparison with BERT-base. Q marks rows whose source could not be read: their figures were read where "
            "others quote them."
        )
    return f"{markdown_table(columns, rows)}\n\n{said}"


def recall_table(result: Mapping[str, Any]) -> str:
    """Return the recall of each label by form, of what ships."""
    part = next(iter(result["truth"]))
    rows = [[row["name"], *(f"{row[part]['recall'][label]:.1%}" for label in result["labels"])] for row in result["summary"]]
    return markdown_table(["model", *result["labels"]], rows)


def picture_of_field(result: Mapping[str, Any]) -> str:
    """Return an SVG of accuracy on the first set against single-text latency; the area of a point is the size."""
    part = next(iter(result["truth"]))
    points = [
        {
            "name": row["name"],
            "precision": row["precision"],
            "runtime": {TEACHER: "pytorch", **dict.fromkeys(_FLOORS, "scikit-learn")}.get(row["name"], "onnxruntime"),
            "p50_ms": row["p50_ms"]["value"],
            "macro_f1": row[part]["accuracy"]["value"],
            "macro_f1_interval": [row[part]["accuracy"][end] for end in ("low", "high")],
            "size_bytes": row["size_bytes"],
        }
        for row in result["summary"]
        if row["p50_ms"]
    ]
    return picture_of(points, score=f"{part} accuracy")


def _said(result: Mapping[str, Any]) -> str:
    seeds, part = max(len(row["seeds"]) for row in result["summary"]), next(iter(result["truth"]))
    said = (
        f"Students in int8, {f'means of {seeds} seeds' if seeds > 1 else 'one seed'}; in parentheses, 95 % intervals over the "
        f"{len(result['truth'][part]):,} {part} texts. `kept` is the share of the teacher's accuracy on them. `ms` is the "
        "median of single texts on one thread, all rows in one run; `faster` compares with the teacher in PyTorch."
    )
    return f"{said} Missing: {', '.join(result['missing'])}." if result["missing"] else said


def _row(row: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    first = row[parts[0]]["accuracy"]
    accuracies = [f"{row[part]['accuracy']['value']:.1%}" for part in parts]
    accuracies[0] += f" ({100 * first['low']:.1f}-{100 * first['high']:.1f})"
    kept = row[parts[0]].get("retention")
    timed = {} if row["name"] == "majority" else row  # a constant takes no time
    p50, ratio, stock = (timed.get(name) for name in ("p50_ms", "p50_ratio_teacher", "p50_ratio_stock_distilbert"))
    shown = f"teacher, {row['num_parameters'] / 1e6:.0f} M weights" if row["name"] == TEACHER else str(row["name"])
    return [
        shown,
        *accuracies,
        f"{kept['value']:.1%}" if kept and row["name"] not in (TEACHER, *_FLOORS) else ABSENT,
        f"{row['size_bytes'] / 1e6:.1f}" if row["size_bytes"] else ABSENT,
        f"{p50['value']:.2f}" if p50 else ABSENT,
        f"{ratio['value']:.1f}x" if ratio and row["name"] != TEACHER else ABSENT,
        f"{stock:.1f}x" if stock and row["name"] != TEACHER else ABSENT,
    ]


def _timed_row(row: Mapping[str, Any], shown: str, parts: Sequence[str]) -> list[str]:
    """Return the row of what was only timed: the teacher's graph, which answered the first set, or a shape without answers."""
    if "failed" in row:
        return [shown, *[ABSENT] * (len(parts) + 5)]
    accuracy, ratio = row.get("accuracy"), row["p50_ratio"]
    first = [ABSENT if accuracy is None else f"{accuracy:.1%}", *[ABSENT] * len(parts)]
    return [
        shown,
        *first,
        f"{row['size_bytes'] / 1e6:.1f}",
        f"{row['p50_ms']['value']:.2f}",
        f"{ratio['value']:.1f}x" if ratio else ABSENT,
        ABSENT,
    ]


def _published_row(one: Published) -> list[str]:
    url, _, place = one.source.partition(" ")
    name = f"[{one.name}]({url})" + (f" {place}" if place else "")
    accuracy = f"{one.accuracy:.1f}%{' T' if one.split == 'test' else ''}{' Q' if one.is_quoted else ''}"
    dev, test = (accuracy, ABSENT) if one.split == "dev" else (ABSENT, accuracy)
    teacher = f"{one.accuracy / one.teacher_accuracy:.1%}" if one.teacher_accuracy else ABSENT
    return [
        name,
        dev,
        test,
        teacher,
        f"{one.megabytes:g}" if one.megabytes else ABSENT,
        ABSENT,
        f"{one.faster:g}x" if one.faster else ABSENT,
        ABSENT,
    ]
