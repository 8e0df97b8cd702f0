"""The picture of macro-F1 against time or size: which rows it shows, and that it needs nothing else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

from export.measure.points import picture_of


def row(name: str, precision: str, runtime: str, macro_f1: float, p50_ms: float | None, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "precision": precision,
        "runtime": runtime,
        "macro_f1": macro_f1,
        "macro_f1_interval": [macro_f1 - 0.016, macro_f1 + 0.016],
        "accuracy": macro_f1,
        "agreement": 0.9,
        "retention": macro_f1 / 0.88,
        "expected_calibration_error": 0.03,
        "per_class": {"negative": {"precision": 0.8, "recall": 0.7, "f1": 0.75, "support": 40}},
        "num_texts": 80,
        "size_bytes": 90_000_000,
        "num_parameters": 1000,
        "p50_ms": p50_ms,
        "p50_ratio_teacher": 4.0,
        **more,
    }


ROWS = [
    row("teacher", "fp32", "pytorch", 0.88, 20.0),
    row("student", "int8", "onnxruntime", 0.86, 1.5, size_bytes=20_000_000),
    row("tfidf", "fp32", "scikit-learn", 0.75, 0.3, size_bytes=None),
    row("majority", "fp32", "none", 0.33, 0.001, size_bytes=None),
]


def test_the_picture_shows_every_row_that_was_timed_but_the_majority() -> None:
    picture = picture_of([*ROWS, row("student", "fp32", "onnxruntime", 0.86, None)])
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    named = set(re.findall(r"<!-- (teacher|student int8|student fp32|tfidf|majority) -->", picture))
    assert named == {"teacher", "student int8", "tfidf"}


def test_a_legend_names_the_families_that_are_shown() -> None:
    families = re.findall(r"<!-- (Pareto front|potstill int8|potstill fp32|teacher|peer|floor) -->", picture_of(ROWS[1:]))
    assert families == ["Pareto front", "potstill int8", "floor"]


def test_a_row_may_say_its_family_and_is_drawn_against_its_size() -> None:
    rows = [{**ROWS[0], "family": "peer", "name": "another_tool"}]
    del rows[0]["runtime"]
    picture = picture_of([*rows, *ROWS[1:]], across="size_bytes")
    named = re.findall(
        r"<!-- (another_tool|student int8|tfidf|peer|what must be shipped to answer \(MB, log scale\)) -->", picture
    )
    assert sorted(named) == ["another_tool", "peer", "student int8", "what must be shipped to answer (MB, log scale)"]


def test_without_a_timed_row_the_picture_is_empty() -> None:
    assert "Pareto front" not in picture_of(ROWS[3:])


def test_the_same_rows_give_the_same_picture() -> None:
    assert picture_of(ROWS) == picture_of(ROWS)


def test_the_picture_names_no_other_place() -> None:
    assert set(re.findall(r"https?://[^\s\"<>]+", picture_of(ROWS))) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
