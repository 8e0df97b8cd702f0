"""What the field's rows say: figures worked out by hand, and the table beside what others publish."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from benchmarks.field.figures import field_figures, field_summary
from benchmarks.field.page import markdown_of_field, picture_of_field, recall_table
from benchmarks.field.published import PUBLISHED

TRUTH = {"dev": [0, 0, 0, 0, 1, 1, 1, 1, 1, 1], "test": [0, 1, 0, 1]}
LABELS = ("negative", "positive")


def quality(name: str, seed: int, dev: str, test: str, precision: str = "int8") -> dict[str, Any]:
    return {
        "measured": "quality",
        "name": name,
        "seed": seed,
        "precision": precision,
        "predicted": {"dev": dev, "test": test},
        "size_bytes": 8_000_000,
        "num_parameters": 9_000_000,
    }


def speed(name: str, ms: float, *, ratio: float, scenario: str = "single-stream") -> dict[str, Any]:
    return {
        "measured": scenario,
        "name": name,
        "p50_ms": {"value": ms, "low": ms, "high": ms},
        "p99_ms": 2 * ms,
        "p50_ratio": {"value": ratio, "low": ratio, "high": ratio},
        "texts_per_second": {"value": 1000 / ms, "low": 1.0, "high": 2.0},
        "size_bytes": 66_000_000,
    }


ROWS = [
    quality("teacher", 0, "0000111110", "0101", "fp32"),  # 9 of 10, 4 of 4
    quality("2-layers", 0, "0000111100", "0101"),  # 8 of 10, 4 of 4
    quality("2-layers", 0, "0000111110", "0101", "fp32"),
    quality("2-layers", 1, "1000110000", "0001"),  # 5 of 10, 3 of 4
    quality("2-layers", 1, "1000110000", "0001", "fp32"),
    {"measured": "quality", "name": "narrow", "seed": 0, "precision": "int8", "failed": "a gate"},
    quality("majority", 0, "1111111111", "1111", "fp32"),
    speed("teacher PyTorch", 100.0, ratio=1.0),
    speed("2-layers int8", 1.0, ratio=100.0),
    speed("majority", 0.001, ratio=1e5),
    {**speed("DistilBERT's shape, stock int8", 20.0, ratio=5.0), "weights": "random"},
    speed("2-layers int8", 1.0, ratio=100.0, scenario="offline"),
]


@pytest.fixture(scope="module")
def summary() -> list[dict[str, Any]]:
    return field_summary(ROWS, TRUTH, LABELS)


def test_figures_are_means_over_seeds_and_ratios_of_medians(summary: list[dict[str, Any]]) -> None:
    figures = field_figures("sst2", summary)
    assert figures == {
        "teacher_dev_accuracy": pytest.approx(0.9),
        "teacher_test_accuracy": pytest.approx(1.0),
        "teacher_p50_ms": 100.0,
        "dev_accuracy_2_layers": pytest.approx((0.8 + 0.5) / 2),
        "test_accuracy_2_layers": pytest.approx((1 + 0.75) / 2),
        "retention_2_layers": pytest.approx(0.65 / 0.9),
        "size_bytes_2_layers": 8_000_000,
        "p50_ratio_teacher_2_layers": 100.0,
        "p50_ratio_stock_distilbert_2_layers": pytest.approx(20.0),  # 20 ms against 1 ms
    }


def test_recall_is_of_each_label_and_int8_is_compared_with_fp32(summary: list[dict[str, Any]]) -> None:
    teacher, student = summary[0], next(row for row in summary if row["name"] == "2-layers")
    assert teacher["name"] == "teacher"
    assert teacher["dev"]["recall"] == {"negative": 1.0, "positive": pytest.approx(5 / 6)}
    assert student["dev"]["recall"] == {"negative": pytest.approx((4 + 3) / 8), "positive": pytest.approx((4 + 2) / 12)}
    assert student["dev"]["int8_drop"] == pytest.approx(0.05)  # one text of ten in one of two seeds
    low, high = student["dev"]["accuracy"]["low"], student["dev"]["accuracy"]["high"]
    assert 0 <= low < 0.65 < high <= 1


def test_the_figures_of_trec6_are_of_its_test_texts() -> None:
    truth = {"test": [0, 1, 2, 2]}

    def row(name: str, seed: int, predicted: str, precision: str = "int8") -> dict[str, Any]:
        return {**quality(name, seed, "", "", precision), "predicted": {"test": predicted}}

    rows = [row("teacher", 0, "0122", "fp32"), row("2-layers", 0, "0120"), row("2-layers", 1, "0122"), row("narrow", 0, "0100")]
    found = field_figures("trec6", field_summary(rows, truth, ("a", "b", "c")))
    assert found == {
        "teacher_accuracy": 1.0,
        "accuracy_2_layers": pytest.approx(7 / 8),
        "accuracy_narrow": pytest.approx(2 / 4),
        "retention_2_layers": pytest.approx(7 / 8),
    }


def test_without_a_teacher_there_are_no_figures() -> None:
    assert field_figures("sst2", field_summary(ROWS[1:3], TRUTH, LABELS)) == {}


def page() -> dict[str, Any]:
    return {
        "scenario": "sst2",
        "command": "python -m benchmarks sst2 --data FOLDER",
        "environment": {"cpu": "a processor", "int8_instruction_set": "avx512_vnni"},
        "rows": ROWS,
        "summary": field_summary(ROWS, TRUTH, LABELS),
        "truth": TRUTH,
        "labels": LABELS,
        "missing": ["narrow-0"],
    }


def test_the_table_shows_every_row_and_marks_what_was_not_measured_here() -> None:
    lines = [re.sub(r" \([\d.]+-[\d.]+\)", "", line) for line in markdown_of_field(page()).splitlines()]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "| 2-layers | 65.0% | 87.5% | 72.2% | 8.0 | 1.00 | 100.0x | 20.0x |" in lines
    assert "| DistilBERT's shape, stock int8, random weights | - | - | - | 66.0 | 20.00 | 5.0x | - |" in lines
    assert any(line.startswith("| majority | ") and line.endswith(" | - | 8.0 | - | - | - |") for line in lines)
    assert next(line for line in lines if "[DistilBERT]" in line).count("| 91.3% | - | 98.5% |") == 1
    assert "| - | 92.6% T Q | 99.1% |" in next(line for line in lines if "[TinyBERT-4]" in line)
    assert "Q marks rows whose source could not be read" in lines[-1]
    assert "Missing: narrow-0." in lines[-1]
    assert sum("](http" in line for line in lines) == len(PUBLISHED)


def test_the_graph_of_the_teacher_is_a_row_below_it() -> None:
    graph = {**speed("teacher fp32", 50.0, ratio=2.0), "accuracy": 0.9, "size_bytes": 400_000_000}
    lines = markdown_of_field({**page(), "rows": [*ROWS, graph]}).splitlines()
    assert lines[3] == "| teacher, fp32 graph | 90.0% | - | - | 400.0 | 50.00 | 2.0x | - |"


def test_the_table_has_intervals_and_says_how_many_seeds() -> None:
    found = page()
    interval = next(row["dev"]["accuracy"] for row in found["summary"] if row["name"] == "2-layers")
    said = markdown_of_field(found)
    assert f"| 65.0% ({100 * interval['low']:.1f}-{100 * interval['high']:.1f}) |" in said
    assert "means of 2 seeds; in parentheses, 95 % intervals over the 10 dev texts" in said
    first = [row for row in ROWS if row.get("seed") in (0, None)]
    assert "one seed; in" in markdown_of_field({**found, "summary": field_summary(first, TRUTH, LABELS)})


def test_recall_has_a_column_a_label() -> None:
    assert "| 2-layers | 87.5% | 50.0% |" in recall_table(page())


def test_the_picture_names_every_timed_row_but_the_commonest_label() -> None:
    picture = picture_of_field(page())
    assert "dev accuracy with 95 % interval" in picture
    for name in ("teacher", "2-layers int8"):
        assert f"<!-- {name} -->" in picture
    assert "majority" not in picture


def test_published_rows_have_a_source_and_a_plausible_accuracy() -> None:
    for row in PUBLISHED:
        assert row.source.startswith("https://")
        assert 80 < row.accuracy < 97
        assert row.teacher_accuracy is None or row.accuracy < row.teacher_accuracy
    assert len({row.name for row in PUBLISHED}) == len(PUBLISHED)
    assert np.isfinite([row.accuracy for row in PUBLISHED]).all()
