"""The scenario `offline`: all texts in one call on all processors; order and batches are the row's own business."""

from __future__ import annotations

from benchmarks.harness.deciding import INT8, SPEED
from benchmarks.harness.scenario import QUALITY, Scenario
from benchmarks.harness.speed import QUICK, SpeedSettings, run_speed, speed_figures
from benchmarks.report.tables import speed_table

SCENARIO = Scenario(
    name="offline",
    summary="Time all texts in one call on all CPUs; the rows take turns, and the same answers give their quality.",
    settings=SpeedSettings,
    run=lambda settings, context: run_speed("many", settings, context),
    figures=lambda result: speed_figures("many", result),
    table=speed_table,
    decided_by=("benchmarks/scenarios/offline.py", *SPEED, *INT8),
    minutes=60,
    quick=QUICK,
    needs=(QUALITY,),
)
