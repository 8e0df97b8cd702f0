"""What the rows of `sst2` and `trec6` say: means over seeds with intervals, the figures of the result, its table.

Pure functions over rows; trains and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.field.shapes import STOCK
from benchmarks.field.study import TEACHER
from benchmarks.harness.scenario import slug_of
from distill.evaluation.intervals import Bootstrap, Figure

QUALITY: Final = "quality"
SINGLE: Final = "single-stream"
MANY: Final = "offline"
"""What a row measures."""
INT8: Final = "int8"
DISTILBERT: Final = f"DistilBERT{STOCK}"
TEACHER_ROW: Final = f"{TEACHER} PyTorch"
TEACHER_GRAPH: Final = f"{TEACHER} fp32"

Rows = Sequence[Mapping[str, Any]]


def field_summary(rows: Rows, truth: Mapping[str, Sequence[int]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row for each form, over all its seeds, quality beside speed; the teacher's first.

    Args:
        rows: Of quality, one for each form, seed and precision; of speed, one for each form.
        truth: True class ids of the sets that measure, by name.
        labels: Label names.
    """
    quality = [row for row in rows if row["measured"] == QUALITY and "failed" not in row]
    names = dict.fromkeys(row["name"] for row in quality)
    runs = {(name, one): _runs(quality, name, one) for name in names for one in ("fp32", INT8)}
    return [
        {
            "name": name,
            "precision": shipped[0]["precision"],
            "seeds": [row["seed"] for row in shipped],
            **_quality_part(name, runs, truth, labels),
            "size_bytes": shipped[0]["size_bytes"],
            "num_parameters": shipped[0]["num_parameters"],
            **_speed_part(rows, name),
        }
        for name in sorted(names, key=lambda name: name != TEACHER)
        if (shipped := runs[name, INT8] or runs[name, "fp32"])
    ]


def _runs(rows: Rows, name: str, precision: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if (row["name"], row["precision"]) == (name, precision)]


def _quality_part(
    name: str, runs: Mapping[tuple[str, str], Rows], truth: Mapping[str, Sequence[int]], labels: Sequence[str]
) -> dict[str, Any]:
    """Return accuracy, retention and recall of what ships, and what int8 costs."""
    shipped, fp32 = runs[name, INT8] or runs[name, "fp32"], runs[name, "fp32"]
    found: dict[str, Any] = {}
    for part, true in truth.items():
        label_ids = np.array(true, dtype=np.int64)
        bootstrap = Bootstrap(label_ids, num_labels=len(labels), num_seeds=len(shipped))
        own = _accuracy(bootstrap, _answers(shipped, part))
        found[part] = {"accuracy": asdict(own.estimate()), "macro_f1": bootstrap.macro_f1(_answers(shipped, part)).value}
        found[part]["recall"] = _recall(_answers(shipped, part), label_ids, labels)
        if runs.get((TEACHER, "fp32")):
            teacher = _accuracy(bootstrap, _answers(runs[TEACHER, "fp32"], part)[0])
            found[part]["retention"] = asdict((own / teacher).estimate())
        if shipped is not fp32 and len(fp32) == len(shipped):
            found[part]["int8_drop"] = _accuracy(bootstrap, _answers(fp32, part)).value - own.value
    return found


def _answers(rows: Rows, part: str) -> NDArray[np.int64]:
    """Return the class ids that the runs gave, shape (runs, texts)."""
    return np.array([[int(digit) for digit in row["predicted"][part]] for row in rows], dtype=np.int64)


def _accuracy(bootstrap: Bootstrap, predicted: NDArray[np.int64]) -> Figure:
    return bootstrap.share_of_counts(predicted, _share_right)


def _share_right(*, hits: NDArray[Any], true: NDArray[Any], given: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of right answers; every text has one label and is given one."""
    del given
    shares: NDArray[np.float64] = hits.sum(axis=-1) / true.sum(axis=-1)
    return shares


def _recall(predicted: NDArray[np.int64], true: NDArray[np.int64], labels: Sequence[str]) -> dict[str, float]:
    """Return the recall of each label, the mean over the runs."""
    return {name: float((predicted[:, true == label] == label).mean()) for label, name in enumerate(labels)}


def _speed_part(rows: Rows, name: str) -> dict[str, Any]:
    """Return the speed of a form: of the teacher in PyTorch, of a student in int8, of a floor as it is."""
    single, many = (
        {row["name"]: row for row in rows if row["measured"] == one and "failed" not in row} for one in (SINGLE, MANY)
    )
    shown = TEACHER_ROW if name == TEACHER else next((one for one in (f"{name} {INT8}", name) if one in single), None)
    if shown not in single:
        return {"p50_ms": None}
    mine, stock = single[shown], single.get(DISTILBERT)
    ratio = mine["p50_ratio"]
    part = {"p50_ms": mine["p50_ms"], "p99_ms": mine["p99_ms"], "p50_ratio_teacher": ratio}
    if ratio and stock and stock["p50_ratio"]:
        part["p50_ratio_stock_distilbert"] = ratio["value"] / stock["p50_ratio"]["value"]
    if shown in many:
        part["texts_per_second"] = many[shown]["texts_per_second"]
    return part


def field_figures(scenario: str, summary: Rows) -> dict[str, float]:
    """Return a scenario's figures from its summary; a figure whose rows are not there is left out."""
    by_name = {slug_of(row["name"]): row for row in summary}
    teacher = by_name.get(TEACHER)
    if teacher is None:
        return {}
    students = {name: row for name, row in by_name.items() if row["precision"] == INT8}
    return _sst2_figures(teacher, students) if scenario == "sst2" else _trec6_figures(teacher, students)


def _sst2_figures(teacher: Mapping[str, Any], students: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    figures = {f"teacher_{part}_accuracy": teacher[part]["accuracy"]["value"] for part in ("dev", "test")}
    if teacher["p50_ms"]:
        figures["teacher_p50_ms"] = teacher["p50_ms"]["value"]
    for name, row in students.items():
        figures |= {f"{part}_accuracy_{name}": row[part]["accuracy"]["value"] for part in ("dev", "test")}
        figures |= {f"retention_{name}": row["dev"]["retention"]["value"], f"size_bytes_{name}": row["size_bytes"]}
    return figures | _speed_figures(students)


def _speed_figures(students: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    ratios = ("p50_ratio_teacher", "p50_ratio_stock_distilbert")
    timed = {name: row for name, row in students.items() if row["p50_ms"]}
    values = {f"{ratio}_{name}": row[ratio] for name, row in timed.items() for ratio in ratios}
    return {name: value if isinstance(value, float) else value["value"] for name, value in values.items()}


def _trec6_figures(teacher: Mapping[str, Any], students: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    figures = {"teacher_accuracy": teacher["test"]["accuracy"]["value"]}
    figures |= {f"accuracy_{name}": row["test"]["accuracy"]["value"] for name, row in students.items()}
    if "2_layers" in students:
        figures["retention_2_layers"] = students["2_layers"]["test"]["retention"]["value"]
    return figures | _speed_figures(students)
