"""Tables between markers are generated from the result file and nothing else; generating twice changes nothing."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.results import FOLDER, changed_code, read_result, write_result
from benchmarks.harness.scenario import Scenario, scenarios
from benchmarks.report import commands
from benchmarks.report.pages import fill_pages, filled, pages_of, stamped
from benchmarks.scenarios.demo import SCENARIO, demo_figures
from distill.errors import PotstillError
from export.measure.workers import ROOT

PAGE = "# Title\n\n<!-- demo -->\nold | table\n<!-- /demo -->\n\nThe rest.\n"


def row(name: str, precision: str, runtime: str, macro_f1: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "precision": precision,
        "runtime": runtime,
        "macro_f1": macro_f1,
        "macro_f1_interval": [macro_f1 - 0.02, macro_f1 + 0.02],
        "retention": macro_f1 / 0.8,
        "size_bytes": 90_000_000,
        "num_texts": 1234,
        **more,
    }


ROWS = [
    row("teacher", "fp32", "pytorch", 0.8, p50_ms=20.0, p50_ratio_teacher=1.0),
    row("student", "fp32", "onnxruntime", 0.78, p50_ms=4.0, p50_ratio_teacher=5.0),
    row("student", "int8", "onnxruntime", 0.776, p50_ms=2.0, p50_ratio_teacher=10.0, size_bytes=20_000_000),
]


ENVIRONMENT = {
    "cpu": r"A \1 processor",
    "cpus_available": 2,
    "int8_instruction_set": "avx512_vnni",
    "git_commit": "0123456789abcdef",
    "git_dirty": False,
}


def write_demo(folder: Path, **more: Any) -> None:
    given: dict[str, Any] = {"figures": demo_figures({"rows": ROWS}), "decided_by": SCENARIO.decided_by, **more}
    write_result("demo", command="a command", environment=ENVIRONMENT, rows=ROWS, folder=folder, **given)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    write_demo(folder)
    return folder


def test_the_table_stands_between_the_markers_and_the_rest_is_left(results: Path) -> None:
    page = filled(PAGE, folder=results)
    before, between, after = (
        page.split("<!-- demo -->")[0],
        page[len("# Title\n\n<!-- demo -->") :],
        page.split("<!-- /demo -->")[1],
    )
    assert before == "# Title\n\n"
    assert after == "\n\nThe rest.\n"
    assert "old" not in page
    assert "| student | onnxruntime int8 | 0.7760 | 0.756-0.796 | 97.0% | 2.00 | 10.0x | - | 20.0 |" in between
    assert "answers 10.0 times faster and ships 4.5 times fewer bytes" in between
    today = read_result("demo", folder=results)["measured_on"]
    where = r"on 2 processors (A \1 processor, avx512_vnni), by `a command`."
    assert between.split("<!-- /demo -->")[0].strip().endswith(f"Measured on {today} at commit 0123456789, {where}")
    assert "1,234 held-out" in between


def test_filling_twice_changes_nothing_more(results: Path) -> None:
    once = filled(PAGE, folder=results)
    assert filled(once, folder=results) == once


@pytest.mark.parametrize(
    "page",
    ["<!-- demo -->", "<!-- /demo --> <!-- demo -->", PAGE + PAGE],
    ids=["no end", "end first", "twice"],
)
def test_a_page_without_one_pair_of_markers_is_refused(page: str, results: Path) -> None:
    with pytest.raises(PotstillError, match="the page needs one <!-- demo --> and, after it, one <!-- /demo -->"):
        filled(page, folder=results)


def test_a_figure_typed_in_by_hand_is_refused(tmp_path: Path) -> None:
    write_demo(tmp_path, figures=demo_figures({"rows": ROWS}) | {"int8_drop": 0.0})
    with pytest.raises(PotstillError, match=r"the figures in .*demo\.json are not those of its rows"):
        filled(PAGE, folder=tmp_path)


def test_the_readme_is_filled_in_its_place(results: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(PAGE, encoding="utf-8")
    fill_pages(tmp_path, folder=results)
    assert readme.read_text(encoding="utf-8") == filled(PAGE, folder=results)


def test_a_missing_result_leaves_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(PAGE, encoding="utf-8")
    with pytest.raises(PotstillError, match="python -m benchmarks demo"):
        fill_pages(tmp_path, folder=tmp_path)
    assert readme.read_text(encoding="utf-8") == PAGE


def test_a_page_that_shows_no_result_is_left(results: Path) -> None:
    assert filled("# Title\n", folder=results) == "# Title\n"


def test_the_first_page_shows_the_demo() -> None:
    assert "<!-- demo -->" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", pages_of(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_pages_show_what_the_committed_result_files_say(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert filled(page) == page, "run `python -m benchmarks readme`"


def test_a_block_says_that_the_code_which_decides_it_has_changed(tmp_path: Path) -> None:
    write_demo(tmp_path, decided_by=SCENARIO.decided_by[4:])
    said = "**Old:** the code that decides it has changed since (benchmarks/scenarios, export/demo.py, export/fitting)."
    assert said in filled(PAGE, folder=tmp_path)
    write_demo(tmp_path, decided_by=())
    assert ", export/demo.py, export/fitting and " in filled(PAGE, folder=tmp_path)


def is_fresh(scenario: Scenario) -> bool:
    """Whether there is a result of a scenario, by the code that is there now."""
    there = (FOLDER / f"{scenario.name}.json").is_file()
    return there and not changed_code(read_result(scenario.name), scenario.decided_by)


def test_every_scenario_has_a_fresh_result_or_a_date_and_a_reason() -> None:
    listed = tomllib.loads((FOLDER / "old.toml").read_text(encoding="utf-8"))
    due = {name for name, scenario in scenarios().items() if not is_fresh(scenario)}
    assert due - listed.keys() == set(), "measure it, or say in benchmarks/results/old.toml since when and why not"
    assert listed.keys() - due == set(), "it is fresh: take it out of benchmarks/results/old.toml"
    for name, entry in listed.items():
        assert entry["since"] <= date.today(), name
        assert len(entry["reason"].split()) >= 5, name


def test_a_figure_in_prose_is_generated_by_its_name(results: Path) -> None:
    page = "It is <!-- demo.p50_ratio_teacher:.1f -->2<!-- / --> times as fast.\n"
    assert filled(page, folder=results) == "It is <!-- demo.p50_ratio_teacher:.1f -->10.0<!-- / --> times as fast.\n"
    with pytest.raises(PotstillError, match="has no figure 'speed'; there are teacher_macro_f1"):
        filled("<!-- demo.speed:.1f -->2<!-- / -->", folder=results)


def test_figures_are_computed_again_only_where_they_differ(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []
    monkeypatch.setattr(commands, "scenarios", lambda: {"demo": SCENARIO, "quality": SCENARIO})
    monkeypatch.setattr(commands, "FOLDER", results)
    monkeypatch.setattr(commands, "read_result", lambda name: read_result(name, folder=results))
    monkeypatch.setattr(commands, "rewrite_result", lambda content: written.append(content["figures"]["int8_drop"]))
    monkeypatch.setattr(commands, "fill_pages", lambda: None)
    commands.refigure()
    assert written == []
    write_demo(results, figures=demo_figures({"rows": ROWS}) | {"int8_drop": 1.0})
    commands.refigure()
    assert written == [demo_figures({"rows": ROWS})["int8_drop"]]


def test_a_picture_names_where_and_when_it_was_measured() -> None:
    svg = '<svg height="100pt" viewBox="0 0 200 100" width="200pt"><g/></svg>'
    found = stamped(svg, "Measured on 2026-01-01 at commit 0, on 2 processors (A), by `it`. **Old:** the code changed.")
    assert 'height="114pt"' in found
    assert 'viewBox="0 0 200 114"' in found
    assert ">Measured on 2026-01-01 at commit 0, on 2 processors (A). Old: its code has changed since</text>" in found


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.svg")), ids=lambda path: path.stem)
def test_every_committed_picture_names_where_and_when_it_was_measured(path: Path) -> None:
    result = read_result(path.stem)
    assert f"Measured on {result['measured_on']} at commit {result['environment']['git_commit'][:10]}" in path.read_text()


def test_every_scenario_names_code_that_is_there() -> None:
    for scenario in scenarios().values():
        assert scenario.decided_by
        assert [path for path in scenario.decided_by if not (ROOT / path).exists()] == []
        assert scenario.settings()  # every field has a default, so that all can be run without a flag
        assert set(scenario.quick) <= scenario.settings.model_fields.keys()
        assert set(scenario.needs) <= scenarios().keys()
