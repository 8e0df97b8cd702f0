"""The pictures of the report page: quality against time and against size, and how the times of each row are spread.

matplotlib draws SVG, so that a page needs neither a script nor another file for them and prints sharply. Greys and colours
read on white and on black.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.harness.scenario import Row, value_of
from export.measure.drawing import GREY, Name, place_names, svg_of

FAMILIES = {
    "int8": ("potstill int8", "#0d9488"),
    "fp32": ("potstill fp32", "#3b82f6"),
    "teacher": ("teacher", "#d97706"),
    "peer": ("peer", "#a855f7"),
    "floor": ("floor", "#7b8494"),
}
"""Kinds of rows: what the legend calls them, and their colour."""


def family_of(row: Row) -> str:
    """Return which of the families a row is of."""
    if row["kind"] != "bundle":
        return "floor" if row["kind"] == "floor" else "peer"
    if row["settings"].get("form") != "pytorch":
        return str(row["precision"])
    return "teacher" if row["name"] == row.get("reference") else "peer"  # a student in PyTorch is how others run it


ACROSS: Mapping[str, tuple[float, str]] = {
    "p50_ms": (1, "median time of one text, tokenization inside (ms, log scale)"),
    "size_bytes": (1e6, "what must be shipped to answer (MB, log scale)"),
}
"""Figures that macro-F1 is drawn against: unit and label."""


def quality_against(name: str, rows: Sequence[Row]) -> str:
    """Return an SVG of macro-F1 against a figure, both with their intervals; rows that do not have it are left out."""
    unit, label = ACROSS[name]
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes, names = figure.add_subplot(), []
    for row in _worth_showing(rows, name):
        colour, height, interval = FAMILIES[family_of(row)][1], row["macro_f1"], row["macro_f1_interval"]
        value = (value_of(row[name]) or 0) / unit
        low, high = (row[name][end] / unit if isinstance(row[name], Mapping) else value for end in ("low", "high"))
        up = [[height - interval[0]], [interval[1] - height]]
        axes.errorbar(value, height, yerr=up, xerr=[[value - low], [high - value]], color=colour, elinewidth=0.8, alpha=0.35)
        axes.scatter(value, height, s=22, color=colour, zorder=3, marker="o" if row["kind"] == "bundle" else "D")
        names.append(Name(row["name"], value, height, interval=(interval[0], interval[1])))
    if names:  # the edge that nothing is both left of and above
        across, heights = np.array(sorted((each.x, each.y) for each in names)).T
        highest = np.maximum.accumulate(heights)
        axes.step(across, highest, where="post", color=GREY, linewidth=1, alpha=0.6, linestyle="--", zorder=1)
    handles = [axes.scatter([], [], s=22, color=colour, label=shown) for shown, colour in FAMILIES.values()]
    axes.legend(handles=handles, loc="lower right", fontsize=8, frameon=False, labelcolor=GREY)
    axes.set(xlabel=label, ylabel="macro-F1 with 95 % interval over the test texts")
    return _finished(figure, axes, names)


def spread_of_times(rows: Sequence[Row]) -> str:
    """Return an SVG of each row's times: from the 1st to the 99th percentile, the middle half, the median."""
    shown = sorted(_worth_showing(rows, "latency_us"), key=lambda row: -row["p50_ms"]["value"])
    figure = Figure(figsize=(6.4, 0.9 + 0.24 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(shown):
        colour = FAMILIES[family_of(row)][1]
        low, first, middle, third, high = np.percentile(np.concatenate(row["latency_us"]) / 1000, [1, 25, 50, 75, 99])
        axes.plot([low, high], [place, place], color=colour, linewidth=1, alpha=0.7)
        axes.plot([first, third], [place, place], color=colour, linewidth=6, alpha=0.6, solid_capstyle="butt")
        axes.plot([middle], [place], marker="|", markersize=9, markeredgewidth=2, color=colour)
    axes.set_yticks(range(len(shown)), [row["name"] for row in shown])
    axes.set_xlabel("time of one text: 1st to 99th percentile, middle half, median (ms)")
    return _finished(figure, axes, [])


def _worth_showing(rows: Sequence[Row], name: str) -> list[Row]:
    """Return the rows with a figure; not the commonest label, which has no quality to show and stretches both axes."""
    return [row for row in rows if row.get(name) and row["settings"].get("floor") != "majority"]


def _finished(figure: Figure, axes: Axes, names: Sequence[Name]) -> str:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(visible=True, alpha=0.2)
    axes.margins(x=0.12)
    axes.tick_params(which="both", labelsize=8)
    place_names(axes, names, size=7)
    return svg_of(figure, transparent=True)
