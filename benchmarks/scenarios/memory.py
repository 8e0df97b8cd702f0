"""The scenario `memory`: what a process and its children hold when ready, after every text alone and at once, and at most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness.deciding import SPEED
from benchmarks.harness.fresh import run_fresh
from benchmarks.harness.scenario import QUALITY, Scenario
from benchmarks.harness.speed import SpeedSettings, figures_named
from benchmarks.report.tables import speed_table
from export.measure.turns import Fresh

MOMENTS = ("ready_rss_bytes", "alone_rss_bytes", "used_rss_bytes", "peak_rss_bytes")


def part_of(fresh: Sequence[Fresh]) -> dict[str, Any]:
    """Return the medians over processes, in bytes; None where the system does not say."""
    found = {name: [getattr(each, name) for each in fresh] for name in MOMENTS}
    return {"marks": [], **{name: None if None in values else int(np.median(values)) for name, values in found.items()}}


SCENARIO = Scenario(
    name="memory",
    summary="Measure the memory of fresh processes: when ready, after single texts, after all texts at once, and the peak.",
    settings=SpeedSettings,
    run=lambda settings, context: run_fresh(settings, context, rounds=1, threads=None, part_of=part_of),
    figures=lambda result: figures_named("peak_rss_bytes", result),
    table=speed_table,
    decided_by=("benchmarks/scenarios/memory.py", "benchmarks/harness/fresh.py", *SPEED),
    minutes=20,
    quick={"texts": 20},
    needs=(QUALITY,),
)
