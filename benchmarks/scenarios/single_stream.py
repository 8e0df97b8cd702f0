"""The scenario `single-stream`: one text at a time on one thread, all rows in turns, with the quality of the same answers."""

from __future__ import annotations

from benchmarks.harness.deciding import INT8, SPEED
from benchmarks.harness.scenario import QUALITY, Scenario
from benchmarks.harness.speed import QUICK, SpeedSettings, run_speed, speed_figures
from benchmarks.report.pictures import quality_against
from benchmarks.report.tables import speed_table

SCENARIO = Scenario(
    name="single-stream",
    summary="Time one text at a time; the rows take turns, and the same answers give their quality.",
    settings=SpeedSettings,
    run=lambda settings, context: run_speed("single", settings, context),
    figures=lambda result: speed_figures("single", result),
    table=speed_table,
    picture=lambda result: quality_against("p50_ms", result["rows"]),
    decided_by=("benchmarks/scenarios/single_stream.py", *SPEED, *INT8),
    minutes=90,
    quick=QUICK,
    needs=(QUALITY,),
)
