"""The figures and tables of the fit scenario from hand-made rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fitting.figures import fit_figures, fit_markdown, missing_of
from benchmarks.harness.pieces import Rows
from benchmarks.harness.results import write_result
from benchmarks.harness.scenario import Context
from benchmarks.report.pages import filled
from distill.errors import PotstillError
from distill.progress import SilentReporter
from export.measure.circumstances import circumstances


class Said(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def score(value: float, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02, **more}


NOW = circumstances()
HERE = {"cpu": NOW["cpu"], "int8_instruction_set": NOW["int8_instruction_set"]}
MADE = {"measured_on": "2026-11-28", "git_commit": "0123456789abcdef", "affinity": [1], **HERE}


def demo(seed: int, *, kept: float, ms: float, predicted: float) -> dict[str, Any]:
    return {
        "name": f"demo-{seed}",
        "kind": "demo",
        "seed": seed,
        "teacher": score(0.8, p50_ms=20.0, size_bytes=80_000_000),
        "student": score(0.8 * kept, form="narrow/int8", kept=kept, p50_ms=ms, predicted_ms=predicted, size_bytes=4_000_000),
        "minutes": {"teacher": 100.0},
        "made": MADE,
    }


def foreign(name: str, *, student: float, tfidf: float, floor_wins: bool = False) -> dict[str, Any]:
    return {
        "name": f"foreign-{name}",
        "kind": "foreign",
        "set": {"name": name, "about": "some texts"},
        "num_texts": {"train": 1_000, "validation": 100, "test": 400},
        "num_labels": 3,
        "teacher": score(0.9),
        "student": score(student, form="static/int4", p50_ms=0.25, size_bytes=2_500_000),
        "tfidf": score(tfidf),
        "floor_wins": floor_wins,
        "made": MADE,
    }


ROWS: list[dict[str, Any]] = [
    {"name": "clone", "kind": "clone", "minutes": {"install": 4.0, "demo": 20.5}},
    {"name": "quick", "kind": "quick", "wall_min": 6.5, "minutes": {"teacher": 1.0}},
    demo(0, kept=0.96, ms=0.5, predicted=0.6),
    demo(1, kept=0.98, ms=0.4, predicted=0.39),
    {
        "name": "regret-0",
        "kind": "regret",
        "halved": score(0.790),
        "full": score(0.796),
        "halved_s": {"narrow-seed-0": 100.0, "quarter/narrow-seed-0": 25.0, "quarter/static-seed-0": 25.0},
        "full_s": {"narrow-seed-0": 100.0, "static-seed-0": 200.0},
    },
    {
        "name": "regret-1",
        "kind": "regret",
        "halved": score(0.800),
        "full": score(0.798),
        "halved_s": {"narrow-seed-1": 70.0},
        "full_s": {"narrow-seed-1": 70.0, "static-seed-1": 30.0},
    },
    foreign("ahead", student=0.86, tfidf=0.80),
    foreign("level", student=0.85, tfidf=0.85, floor_wins=True),
    foreign("won", student=0.70, tfidf=0.75, floor_wins=True),
    # Chosen by another metric than the one of the report's verdict: behind, and not said to be.
    foreign("behind", student=0.70, tfidf=0.75),
    {"name": "foreign-stuck", "kind": "foreign", "failed": "the teacher says one label"},
]


def test_every_figure_follows_from_its_rows() -> None:
    assert fit_figures(ROWS) == {
        "minutes": 24.5,  # 4 + 20.5; not those of other rows
        "minutes_quick": 6.5,
        "retention": pytest.approx(0.97),
        "p50_ratio_teacher": pytest.approx(45.0),  # the mean of 40 and 50, not 20 / 0.45
        "size_ratio_teacher": 20.0,
        "p50_prediction_error": pytest.approx(0.2),  # the worst seed, measured against what came true
        "regret": pytest.approx(0.002),  # the mean of +0.006 and -0.002
        "time_share": pytest.approx(0.6),  # the mean of 150/300 and 70/100
        "foreign_sets_at_least_floor": 3,
        "foreign_sets_won_by_floor": 2,
    }


def test_a_figure_without_rows_is_not_there() -> None:
    assert fit_figures([]) == {}
    assert fit_figures([row for row in ROWS if row["kind"] == "quick"]) == {"minutes_quick": 6.5}


def test_missing_rows_are_those_that_are_not_there_and_those_that_failed() -> None:
    assert missing_of(ROWS, seeds=(0, 1, 2), sets=("ahead", "stuck")) == ["demo-2", "regret-2", "foreign-stuck"]


def test_rows_of_an_earlier_result_are_not_made_again_unless_they_failed(tmp_path: Path) -> None:
    Rows(tmp_path).keep({"name": "demo-1", "student": "new"})
    here = Rows(tmp_path).find("demo-1")["made"]
    assert here["measured_on"]  # a row says when, on what and by which commit it was made
    made = {**here, "measured_on": "2026-01-01"}
    saved: list[list[dict[str, Any]]] = []
    earlier = [{"name": "demo-1", "student": "old"}, {"name": "clone"}, {"name": "quick", "failed": "no student"}]
    rows = Rows(tmp_path, earlier=[{**row, "made": made} for row in earlier], saved=saved.append)
    assert rows.all() == [{"name": "clone", "made": made}, {"name": "demo-1", "student": "new", "made": here}]
    assert not rows.has("quick")
    rows.keep({"name": "quick"})
    assert saved == [rows.all()]
    assert [row["name"] for row in saved[0]] == ["clone", "demo-1", "quick"]


@pytest.mark.parametrize("made", [{**MADE, "cpu": "another"}, {**MADE, "int8_instruction_set": "another"}, {}])
def test_rows_of_another_kind_of_processor_are_not_there(made: dict[str, Any], tmp_path: Path) -> None:
    rows, said = Rows(tmp_path / "rows"), Said()
    rows.put("quick", {"name": "quick", "made": made})
    assert not rows.has("quick")
    assert rows.all() == []
    rows.keep({"name": "quick"})
    assert rows.has("quick")
    here = demo(0, kept=0.96, ms=0.5, predicted=0.6)
    write_result("fit", folder=tmp_path, **result([here, {**here, "name": "demo-1", "made": made}]))
    assert Context(tmp_path, "fit", said, out=tmp_path).earlier_rows() == [here]
    assert said.lines == [
        "earlier rows left out, of another kind of processor: 1 of 2",
        f"rows of {tmp_path / 'fit.json'} that are not made again: 1; another --out makes all anew",
    ]


def test_rows_that_other_code_made_are_not_kept(tmp_path: Path) -> None:
    said, made_by, changed = Said(), "benchmarks/harness/texts.py", "benchmarks/harness/pieces.py"
    rows = Rows(tmp_path)
    rows.keep({"name": "clone", "kind": "clone", "minutes": {"demo": 3.0}})
    write_result("fit", folder=tmp_path, **result(rows.all()), decided_by=[made_by])
    assert Context(tmp_path, "fit", said, out=tmp_path, decided_by=(made_by,)).earlier_rows() == rows.all()
    assert Context(tmp_path, "fit", said, out=tmp_path, decided_by=(made_by, changed)).earlier_rows() == []
    assert said.lines[1:] == [f"earlier rows left out, 1: other code made them, see {changed}"]


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {"cpus_available": 2, "cpu": "a processor", "int8_instruction_set": "avx512_vnni"}
    environment = {**machine, "git_commit": "0123456789", "git_dirty": False}
    return {"command": "python -m benchmarks fit", "environment": environment, "rows": rows, "figures": fit_figures(rows)}


def test_the_tables_show_seeds_and_sets_with_intervals() -> None:
    page = fit_markdown(result(ROWS))
    assert (
        "| 0 | narrow/int8 | 0.800 (0.780-0.820) | 0.768 (0.748-0.788) | 96.0% | 0.50 | 0.60 | 40.0x | 20.0x | 2026-11-28"
        in page
    )
    scores = "0.900 (0.880-0.920) | 0.860 (0.840-0.880) | 0.800 (0.780-0.820)"
    assert (
        f"| ahead (some texts) | 1,500 | 3 | {scores} | static/int4 | 0.25 | 2.5 | 2026-11-28, 0123456789, 1 {HERE['cpu']} |"
        in page
    )
    assert "static/int4 (TF-IDF is as good)" in page
    assert "foreign-stuck failed: the teacher says one label." in page


def test_a_page_shows_the_tables_unless_its_figures_were_edited(tmp_path: Path) -> None:
    path = write_result("fit", folder=tmp_path, **result(ROWS))
    page = filled("before\n<!-- fit -->\n<!-- /fit -->\nafter", folder=tmp_path)
    assert page.startswith("before\n<!-- fit -->\n| seed |")
    content = json.loads(path.read_text())
    figures = {**content["figures"], "regret": 0.0}
    write_result("fit", folder=tmp_path, **{**result(ROWS), "figures": figures})
    with pytest.raises(PotstillError, match="not those of its rows"):
        filled(page, folder=tmp_path)
