"""The report's files: figures as JSON, and one page with a picture that needs nothing else."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from export.measure.report import confusion_picture_of, html_of, picture_of, write_report


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


@pytest.fixture
def report() -> dict[str, Any]:
    part = {"counts": {"negative": 40, "positive": 40}, "fingerprint": "0" * 64}
    return {
        "schema": 1,
        "task": "movies",
        "profile": "full",
        "seed": 5,
        "environment": {"cpu": "a processor", "versions": {"numpy": "2.0"}},
        "rows": ROWS,
        "data": {"notes": ["left out 3 <b>texts</b>"], "train": part, "validation": part, "test": part},
        "settings": {"teacher": {"epochs": 3}},
    }


def test_both_files_are_written_and_the_figures_survive(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(tmp_path, report)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html_of(report)


def test_a_figure_that_is_not_a_number_is_refused(report: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path, report | {"rows": [row("teacher", "fp32", "pytorch", float("nan"), 1.0)]})
    assert not (tmp_path / "report.json").exists()


def test_the_page_tells_the_circumstances_and_every_row(report: dict[str, Any]) -> None:
    page = html_of(report)
    for said in ("movies", "seed 5", "a processor", "numpy 2.0", "keeps 97.7%", "40 negative", "&#34;epochs&#34;: 3"):
        assert said in page or said.replace("&#34;", '"') in page
    for name in ("teacher", "student", "tfidf", "majority"):
        assert f"<td>{name}</td>" in page


def test_words_of_others_cannot_become_markup(report: dict[str, Any]) -> None:
    page = html_of(report)
    assert "left out 3 &lt;b&gt;texts&lt;/b&gt;" in page
    assert "<b>texts" not in page


def test_a_sample_says_that_it_is_one(report: dict[str, Any]) -> None:
    assert "A sample of the texts" not in html_of(report)
    assert "A sample of the texts" in html_of(report | {"profile": "quick"})


def test_a_busy_machine_is_said_before_any_figure(report: dict[str, Any]) -> None:
    assert "was busy" not in html_of(report)
    page = html_of(report | {"rows": [*ROWS[:1], {**ROWS[1], "noisy": True}, *ROWS[2:]]})
    assert page.index("was busy or unsteady while student was timed") < page.index("keeps 97.7%")


def test_the_picture_shows_every_row_that_was_timed_but_the_majority() -> None:
    picture = picture_of([*ROWS, row("student", "fp32", "onnxruntime", 0.86, None)])
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    named = set(re.findall(r"<!-- (teacher|student int8|student fp32|tfidf|majority) -->", picture))
    assert named == {"teacher", "student int8", "tfidf"}


def test_the_same_rows_give_the_same_picture() -> None:
    assert picture_of(ROWS) == picture_of(ROWS)


def test_the_picture_names_no_other_place() -> None:
    assert set(re.findall(r"https?://[^\s\"<>]+", picture_of(ROWS))) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_page_shows_which_label_is_taken_for_which(report: dict[str, Any]) -> None:
    assert "Which label for which" not in html_of(report)  # a report of an earlier release has no such figures
    labels = {name: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 40} for name in ("negative", "positive")}
    student = ROWS[1] | {"per_class": labels, "confusion": [[30, 10], [4, 36]]}
    page = html_of(report | {"rows": [ROWS[0], student]})
    assert "<td>student int8</td><td>negative</td><td>30 (75.0%)</td><td>10 (25.0%)</td>" in page
    assert "texts of each true label" in page
    picture = ElementTree.fromstring(confusion_picture_of([ROWS[0], student]))
    strengths = [
        float(found.group(1))
        for element in picture.iter("{http://www.w3.org/2000/svg}path")
        if (found := re.search(r"fill: #0f766e; opacity: ([\d.]+)", element.get("style") or ""))
    ]
    assert strengths == pytest.approx([0.75, 0.25, 0.1, 0.9])


def test_more_labels_than_can_be_read_have_no_picture() -> None:
    many = {str(number): {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0} for number in range(13)}
    row = ROWS[1] | {"per_class": many, "confusion": [[0] * 13] * 13}
    assert confusion_picture_of([row]) == ""
    assert confusion_picture_of([ROWS[0]]) == ""
