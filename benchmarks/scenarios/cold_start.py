"""The scenario `cold-start`: seconds from starting a process to its first answer; the files are in the page cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.harness.deciding import SPEED
from benchmarks.harness.fresh import run_fresh
from benchmarks.harness.scenario import QUALITY, Scenario
from benchmarks.harness.speed import SpeedSettings, figures_named
from benchmarks.report.tables import speed_table
from export.measure.statistics import marks_of, over_processes
from export.measure.turns import Fresh

ROUNDS = 8


def part_of(fresh: Sequence[Fresh]) -> dict[str, Any]:
    """Return the time to the first answer; its interval is over processes."""
    seconds = [each.first_answer_s for each in fresh]
    return {
        "marks": marks_of([[each] for each in seconds]),
        "cold_start_s": asdict(over_processes(seconds)),
        "cold_start_s_rounds": [round(each, 4) for each in seconds],
    }


SCENARIO = Scenario(
    name="cold-start",
    summary="Time fresh processes from their start to the first answer; the rows take turns.",
    settings=SpeedSettings,
    run=lambda settings, context: run_fresh(settings, context, rounds=ROUNDS, threads=1, part_of=part_of),
    figures=lambda result: figures_named("cold_start_s", result),
    table=speed_table,
    decided_by=("benchmarks/scenarios/cold_start.py", "benchmarks/harness/fresh.py", *SPEED),
    minutes=60,
    quick={"rounds": 3, "texts": 20},
    needs=(QUALITY,),
)
