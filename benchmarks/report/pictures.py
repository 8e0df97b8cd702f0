"""The pictures of the report page: quality against time and against size, and how the times of each row are spread.

matplotlib draws SVG, so that a page needs neither a script nor another file for them and prints sharply. Greys and colours
read on white and on black.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness.scenario import Row
from export.measure.drawing import GREY, logarithmic, svg_of
from export.measure.points import FAMILIES, Across, picture_of


def family_of(row: Row) -> str:
    """Return which of the families a row is of."""
    if row["kind"] != "bundle":
        return "floor" if row["kind"] == "floor" else "peer"
    if row["settings"].get("form") != "pytorch":
        return str(row["precision"])
    return "teacher" if row["name"] == row.get("reference") else "peer"  # a student in PyTorch is how others run it


def quality_against(across: Across, rows: Sequence[Row]) -> str:
    """Return an SVG of macro-F1 against a figure; rows that do not have it are left out."""
    return picture_of([{**row, "family": family_of(row)} for row in rows if row.get(across)], across=across)


def spread_of_times(rows: Sequence[Row]) -> str:
    """Return an SVG of each row's times: from the 1st to the 99th percentile, the middle half, the median."""
    timed = [row for row in rows if row.get("latency_us") and row["name"] != "majority"]
    shown = sorted(timed, key=lambda row: -row["p50_ms"]["value"])
    figure = Figure(figsize=(6.4, 0.9 + 0.24 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.boxplot(
        [np.concatenate(row["latency_us"]) / 1000 for row in shown],
        orientation="horizontal",
        tick_labels=[row["name"] for row in shown],
        whis=(1, 99),
        showcaps=False,
        showfliers=False,
        patch_artist=True,
        whiskerprops={"color": GREY},
        medianprops={"color": "white"},
    )
    for box, row in zip(drawn["boxes"], shown, strict=True):
        box.set(color=FAMILIES[family_of(row)][1])
    logarithmic(axes, "time of one text: 1st to 99th percentile, middle half, median (ms)")
    return svg_of(figure, transparent=True)
