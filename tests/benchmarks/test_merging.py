"""Results of several runs: rows of the same code and processor stay, timings are of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.merging import earlier_result, merged
from benchmarks.harness.results import write_result
from benchmarks.harness.scenario import scenarios
from benchmarks.report.circumstances import circumstances_of
from distill.progress import SilentReporter

CPU = {"cpu": "a processor", "int8_instruction_set": "vnni"}
ENVIRONMENT = {**CPU, "git_commit": "1234567890abc", "git_dirty": False, "affinity": [0, 1], "load_average_1m": 0.5}
DECIDED_BY = ("benchmarks/harness/texts.py",)


def run(name: str, seed: int) -> dict[str, Any]:
    return {"name": name, "seed": seed, "precision": "int8", "predicted": "01"}


def timing(name: str, ms: float) -> dict[str, Any]:
    return {"name": name, "seed": 0, "precision": "int8", "measured": "speed", "p50_ms": ms}


def result(rows: list[dict[str, Any]], missing: list[str]) -> dict[str, Any]:
    return {"scenario": "quality", "environment": ENVIRONMENT, "rows": rows, "missing": missing}


def earlier_of(folder: Path, rows: list[dict[str, Any]], missing: list[str]) -> Any:
    write_result(
        "quality",
        command="python -m benchmarks quality",
        environment=ENVIRONMENT,
        rows=rows,
        figures={},
        folder=folder,
        decided_by=DECIDED_BY,
        missing=missing,
    )
    return earlier_result("quality", folder, decided_by=DECIDED_BY, reporter=SilentReporter())


def test_a_second_run_adds_what_was_missing_and_its_timings_replace_the_first_ones(tmp_path: Path) -> None:
    earlier = earlier_of(tmp_path, [run("narrow", 0), timing("narrow", 1.0), timing("static", 0.5)], ["narrow-1", "narrow-2"])
    new = [run("narrow", 1), timing("narrow", 2.0)]
    found = merged(result(new, ["narrow-0", "narrow-2"]), earlier)
    assert found["missing"] == ["narrow-2"]
    kept, *others = found["rows"]
    assert others == new
    assert {**kept, "made": None} == {**run("narrow", 0), "made": None}
    assert kept["made"]["git_commit"] == "1234567890abc"
    assert kept["made"]["measured_on"] == earlier["measured_on"]


def test_a_row_that_was_measured_again_is_not_kept_twice(tmp_path: Path) -> None:
    again = {**run("narrow", 0), "predicted": "11"}
    assert merged(result([again], []), earlier_of(tmp_path, [run("narrow", 0)], []))["rows"] == [again]


@pytest.mark.parametrize("processor", [{"cpu": "another"}, {"int8_instruction_set": "avx2"}])
def test_rows_of_another_kind_of_processor_are_not_kept(processor: dict[str, str], tmp_path: Path) -> None:
    earlier = earlier_of(tmp_path, [run("narrow", 0)], ["narrow-1"])
    new = {**result([run("narrow", 1)], ["narrow-0"]), "environment": {**ENVIRONMENT, **processor}}
    assert merged(new, earlier) == new


def test_a_result_that_does_not_say_what_is_missing_is_of_one_run(tmp_path: Path) -> None:
    earlier = earlier_of(tmp_path, [run("narrow", 0)], [])
    whole = {"scenario": "int8", "environment": ENVIRONMENT, "rows": [run("narrow", 1)]}
    assert merged(whole, earlier) == whole


def test_no_earlier_result_is_taken_over_if_there_is_none_or_other_code_made_it(tmp_path: Path) -> None:
    assert earlier_result("quality", tmp_path, decided_by=DECIDED_BY, reporter=SilentReporter()) is None
    assert earlier_of(tmp_path, [], []) is not None
    more = (*DECIDED_BY, "benchmarks/harness/merging.py")
    assert earlier_result("quality", tmp_path, decided_by=more, reporter=SilentReporter()) is None


def test_the_line_below_a_block_names_the_runs_of_other_rows() -> None:
    now = {"measured_on": "2026-11-30", "environment": {**ENVIRONMENT, "cpus_available": 2}, "command": "this"}
    made = {"measured_on": "2026-11-29", "git_commit": "fedcba9876543"}
    rows = [{"made": made}, {"made": made}, {"made": {"measured_on": "2026-11-30", "git_commit": "1234567890abc"}}, {}]
    said = circumstances_of({**now, "rows": rows}, scenarios()["quality"])
    assert "Some rows were measured on 2026-11-29 at fedcba9876. " in said
    assert "Some rows" not in circumstances_of({**now, "rows": rows[2:]}, scenarios()["quality"])
