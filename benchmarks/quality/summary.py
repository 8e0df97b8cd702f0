"""What the rows of the `quality` scenario say: means over seeds, paired intervals, and the figures.

Pure functions over rows; trains and measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from benchmarks.harness.answers import Answered
from benchmarks.harness.scenario import Columns, Result, Row, table_of, unfinished, value_of
from benchmarks.quality.arms import ARMS, TEACHER
from distill.errors import PotstillError
from distill.evaluation.intervals import Estimate, Figure
from distill.evaluation.proof import verdict_in_words
from distill.settings import Precision
from export.measure.tables import ABSENT

CONTROL: Final = "2_layers_control"
RETENTIONS: Final = {
    "retention_3_layers": "3_layers",
    "retention_2_layers": "2_layers",
    "retention_1_layer": "1_layer",
    "retention_slim": "2_layers_slim",
    "retention_narrow": "narrow",
    "retention_static": "static",
}


def arms_of(result: Result, precision: Precision = "fp32") -> dict[str, Figure]:
    """Return the macro-F1 of the reference teacher, and of every arm that was run with every seed of it, paired.

    Raises:
        PotstillError: There is no reference teacher.
    """
    answers = {(row["name"], row["seed"], row["precision"]): row["predicted"] for row in result["rows"] if "predicted" in row}
    seeds = sorted(seed for name, seed, _ in answers if name == TEACHER)
    if not seeds:
        raise PotstillError("there is no row of a reference teacher; run `python -m benchmarks quality` to make it")
    answered = Answered(result["test_labels"], tuple(answers.values()))
    return {
        name: answered.figure([answers[name, seed, precision] for seed in seeds])
        for name in (TEACHER, *ARMS)
        if all((name, seed, precision) in answers for seed in seeds)
    }


def summary_of(result: Result) -> list[dict[str, Any]]:
    """Return one row per arm over all seeds: means, and intervals from paired resamples of texts and seeds."""
    fp32, int8 = arms_of(result), arms_of(result, "int8")
    speed_of = {row["name"]: row for row in result["rows"] if "predicted" not in row}
    rows = [row for row in result["rows"] if row["precision"] == "fp32" and "predicted" in row]
    return [
        {
            "name": name,
            "shown_as": "reference teacher, 6 layers" if name == TEACHER else ARMS[name].shown_as,
            "macro_f1": figure.estimate(),
            "retention": (figure / fp32[TEACHER]).estimate(),
            "int8_macro_f1": int8[name].estimate() if name in int8 else None,
            **{
                key: float(np.mean([row[key] for row in rows if row["name"] == name]))
                for key in ("agreement", "expected_calibration_error")
            },
            **{key: speed_of.get(name, {}).get(key) for key in ("size_bytes", "p50_ms", "p50_ratio_teacher")},
        }
        for name, figure in fp32.items()
    ]


def gain_of(result: Result) -> Estimate | None:
    """Return the macro-F1 that distillation adds to 2 layers, paired; None if the student or its control lacks a seed."""
    of_arm = arms_of(result)
    return (of_arm["2_layers"] - of_arm[CONTROL]).estimate() if {"2_layers", CONTROL} <= of_arm.keys() else None


def quality_figures(result: Result) -> dict[str, float]:
    """Return the scenario's figures; one whose arms were not run with every seed is missing."""
    of_arm = arms_of(result)
    teacher, gain = of_arm[TEACHER], gain_of(result)
    return {
        "teacher_macro_f1": teacher.value,
        **{figure: (of_arm[name] / teacher).value for figure, name in RETENTIONS.items() if name in of_arm},
        **({} if gain is None else {"gain_over_control_2_layers": gain.value}),
    }


def quality_table(result: Result) -> str:
    """Return quality over seeds beside the speed of what ships, and in words what the control says of distillation."""
    control = gain_of(result)
    said = [] if control is None else [verdict_in_words(control, num_seeds=len(arms_of(result)[TEACHER].seeds))]
    said += unfinished(result, "runs")
    return "\n\n".join([table_of(summary_of(result), COLUMNS), *said])


def _speed(name: str, pattern: str, *, unit: float = 1) -> Callable[[Row], str]:
    """Return the cell of a figure that only what ships has."""
    return lambda row: pattern.format((value_of(row[name]) or 0) / unit) if value_of(row["p50_ms"]) else ABSENT


COLUMNS: Columns = (
    ("student", lambda row: row["shown_as"]),
    ("macro-F1", lambda row: f"{row['macro_f1'].value:.4f}"),
    ("kept", lambda row: f"{row['retention'].value:.1%}"),
    ("95 % interval", lambda row: f"{row['retention'].low:.1%}-{row['retention'].high:.1%}"),
    ("int8 macro-F1", lambda row: f"{row['int8_macro_f1'].value:.4f}" if row["int8_macro_f1"] else ABSENT),
    ("agrees", lambda row: f"{row['agreement']:.1%}"),
    ("calibration error", lambda row: f"{row['expected_calibration_error']:.3f}"),
    ("p50 ms", _speed("p50_ms", "{:.2f}")),
    ("faster", _speed("p50_ratio_teacher", "{:.1f}x")),
    ("ships MB", _speed("size_bytes", "{:.1f}", unit=1e6)),
)


def points_of(result: Result) -> list[dict[str, Any]]:
    """Return the summary as rows of a picture: means over seeds, their intervals, the speed of what ships."""
    forms = {TEACHER: {"precision": "fp32", "runtime": "pytorch"}}
    return [
        {
            **row,
            **forms.get(row["name"], {"precision": "int8", "runtime": "onnxruntime"}),
            "name": row["shown_as"],
            "macro_f1": asdict(row["int8_macro_f1"] or row["macro_f1"]),
        }
        for row in summary_of(result)
    ]
