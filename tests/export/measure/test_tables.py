"""Rows as people read them, from figures small enough to check by eye."""

from __future__ import annotations

from typing import Any

import pytest

from distill.evaluation.intervals import Estimate
from export.measure.tables import (
    COLUMNS,
    EVAL_COLUMNS,
    confusion_table,
    estimate_of,
    markdown_of,
    per_class_table,
    table_of,
    verdict_of,
)

QUALITY: dict[str, Any] = {
    "name": "student_no_distillation",
    "precision": "fp32",
    "runtime": "onnxruntime",
    "macro_f1": 0.81234,
    "macro_f1_interval": [0.7951, 0.8299],
    "accuracy": 0.815,
    "agreement": 0.9004,
    "retention": 0.94556,
    "expected_calibration_error": 0.03216,
    "per_class": {"bad": {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 8}},
    "num_texts": 8,
    "size_bytes": 21_460_000,
    "num_parameters": 20_123_456,
}
SPEED: dict[str, Any] = {
    "p50_ms": 1.2345,
    "p90_ms": 1.9,
    "p99_ms": None,
    "texts_per_second": 1234.4,
    "p50_ratio_teacher": 12.34,
    "cold_start_s": 0.456,
    "peak_rss_bytes": 123_456_789,
}


def test_figures_are_rounded_and_carry_their_unit() -> None:
    columns, (cells,) = table_of([QUALITY | SPEED])
    assert dict(zip(columns, cells, strict=True)) == {
        "classifier": "student no distillation",
        "runs on": "onnxruntime fp32",
        "macro-F1": "0.8123",
        "95 % interval": "0.795-0.830",
        "kept": "94.6%",
        "agrees": "90.0%",
        "p50 ms": "1.23",
        "p90 ms": "1.90",
        "p99 ms": "-",
        "faster": "12.3x",
        "texts/s": "1,234",
        "ships MB": "21.5",
        "cold start s": "0.46",
        "memory MB": "123",
    }


@pytest.mark.parametrize("columns", [COLUMNS, EVAL_COLUMNS])
def test_what_was_not_measured_is_a_dash(columns: tuple[str, ...]) -> None:
    row = {**QUALITY, "agreement": None, "retention": None, "size_bytes": None, "runtime": "none"}
    _, (cells,) = table_of([row], columns)
    absent = {name for name, cell in zip(columns, cells, strict=True) if cell == "-"}
    assert absent == set(columns) - {"classifier", "macro-F1", "95 % interval", "accuracy", "calibration error"}


def test_each_label_of_each_classifier_has_a_row() -> None:
    assert per_class_table([QUALITY])[1] == [["student no distillation fp32", "bad", "0.5000", "0.2500", "0.3333", "8"]]


def confused(counts: list[list[int]]) -> dict[str, Any]:
    return QUALITY | {"per_class": {f"label {number}": {} for number in range(len(counts))}, "confusion": counts}


def test_a_confusion_matrix_counts_true_by_given_with_shares_of_the_true_label() -> None:
    columns, cells = confusion_table([confused([[3, 1], [0, 4]]), QUALITY])
    assert columns == ["classifier", "true label", "given label 0", "given label 1"]
    assert cells == [
        ["student no distillation fp32", "label 0", "3 (75.0%)", "1 (25.0%)"],
        ["student no distillation fp32", "label 1", "0 (0.0%)", "4 (100.0%)"],
    ]
    assert confusion_table([QUALITY])[1] == []  # several labels a text, or a row of an earlier release


def test_of_many_labels_the_commonest_mistakes_are_shown() -> None:
    counts = [[10 if true == given else 0 for given in range(13)] for true in range(13)]
    counts[7][2], counts[0][12] = 6, 2
    columns, cells = confusion_table([confused(counts)])
    assert columns == ("classifier", "true label", "given", "texts", "of its texts")
    assert [row[1:] for row in cells] == [["label 7", "label 2", "6", "37.5%"], ["label 0", "label 12", "2", "16.7%"]]


def test_a_figure_has_the_interval_that_its_row_says_or_none() -> None:
    assert estimate_of(QUALITY, "macro_f1") == Estimate(0.81234, 0.7951, 0.8299)
    assert estimate_of({"p50_ms": {"value": 2.0, "low": 1.5, "high": 2.5}}, "p50_ms") == Estimate(2.0, 1.5, 2.5)
    assert estimate_of({"p50_ms": 2.0, "p50_ms_interval": None}, "p50_ms") == Estimate(2.0, 2.0, 2.0)


def test_markdown_puts_words_left_and_figures_right() -> None:
    assert markdown_of([QUALITY | SPEED], columns=("classifier", "runs on", "p50 ms")) == (
        "| classifier | runs on | p50 ms |\n|---|---|--:|\n| student no distillation | onnxruntime fp32 | 1.23 |"
    )


def row(name: str, precision: str, macro_f1: float, **more: Any) -> dict[str, Any]:
    half = 0.015
    return {
        "name": name,
        "precision": precision,
        "macro_f1": macro_f1,
        "macro_f1_interval": [macro_f1 - half, macro_f1 + half],
    } | more


TEACHER = row("teacher", "fp32", 0.88, size_bytes=90_000_000)
STUDENT = row("student", "int8", 0.86, size_bytes=20_000_000, retention=0.86 / 0.88, p50_ratio_teacher=12.34)


def test_the_verdict_says_what_is_kept_and_gained() -> None:
    assert verdict_of([TEACHER, STUDENT]) == (
        "The int8 student keeps 97.7% of the teacher's macro-F1 (0.860 of 0.880), answers 12.3 times faster and ships "
        "4.5 times fewer bytes."
    )


@pytest.mark.parametrize(
    ("control", "judged"),
    [
        (0.840, "by +0.0210: more than half the 95 % interval of this test set."),
        (0.850, "by +0.0110: one seed cannot tell this from zero."),
        (0.880, "by -0.0190: more than half the 95 % interval of this test set."),
    ],
)
def test_the_verdict_claims_no_gain_within_the_interval(control: float, judged: str) -> None:
    rows = [TEACHER, STUDENT, row("student", "fp32", 0.861), row("student_no_distillation", "fp32", control)]
    assert verdict_of(rows).endswith(f"trained without the teacher's answers it differs {judged}")
