"""The pictures of the report page: quality against time and against size, and how the times of each row are spread.

matplotlib draws SVG, so that a page needs neither a script nor another file for them and prints sharply. Greys and colours
read on white and on black.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.harness.scenario import Row
from export.measure.drawing import Name, as_svg, place_names

GREY = "#7b8494"
COLOURS = {"int8": "#0d9488", "fp32": "#3b82f6", "teacher": "#d97706", "peer": "#a855f7", "floor": "#7b8494"}


def family_of(row: Row) -> str:
    """Return which colour a row has."""
    if row["kind"] == "bundle":
        if row["settings"].get("form") != "pytorch":
            return str(row["precision"])
        return "teacher" if row["name"] == row.get("reference") else "peer"  # a student in PyTorch is how others run it
    return "floor" if row["kind"] == "floor" else "peer"


def quality_against_time(rows: Sequence[Row]) -> str:
    """Return an SVG of macro-F1 against the median time of one text, both with their intervals."""
    shown = [row for row in _worth_showing(rows) if row.get("p50_ms")]
    middles = [(row["p50_ms"]["value"], row["p50_ms"]["low"], row["p50_ms"]["high"]) for row in shown]
    return _quality_against("median time of one text, tokenization inside (ms, log scale)", shown, middles)


def quality_against_size(rows: Sequence[Row]) -> str:
    """Return an SVG of macro-F1 against what must be shipped; rows that ship no files of their own are left out."""
    shown = [row for row in _worth_showing(rows) if row.get("size_bytes")]
    return _quality_against(
        "what must be shipped to answer (MB, log scale)", shown, [3 * (row["size_bytes"] / 1e6,) for row in shown]
    )


def _quality_against(label: str, rows: Sequence[Row], across: Sequence[tuple[float, float, float]]) -> str:
    """Draw macro-F1 against a value with its interval; a value without one is its own low and high end."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes, names = figure.add_subplot(), []
    for row, (value, low, high) in zip(rows, across, strict=True):
        colour, height, interval = COLOURS[family_of(row)], row["macro_f1"], row["macro_f1_interval"]
        up = [[height - interval[0]], [interval[1] - height]]
        aside = None if low == high else [[value - low], [high - value]]
        axes.errorbar(value, height, yerr=up, xerr=aside, color=colour, elinewidth=0.8, alpha=0.35)
        axes.scatter(value, height, s=22, color=colour, zorder=3, marker="o" if row["kind"] == "bundle" else "D")
        names.append(Name(row["name"], value, height, interval=(interval[0], interval[1])))
    _front(axes, [(name.x, name.y) for name in names])
    axes.set_xlabel(label)
    return _finished(figure, axes, names)


def spread_of_times(rows: Sequence[Row]) -> str:
    """Return an SVG of each row's times: from the 1st to the 99th percentile, the middle half, the median."""
    shown = sorted((row for row in _worth_showing(rows) if row.get("latency_us")), key=lambda row: -row["p50_ms"]["value"])
    figure = Figure(figsize=(6.4, 0.9 + 0.24 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(shown):
        colour = COLOURS[family_of(row)]
        low, first, middle, third, high = np.percentile(np.concatenate(row["latency_us"]) / 1000, [1, 25, 50, 75, 99])
        axes.plot([low, high], [place, place], color=colour, linewidth=1, alpha=0.7)
        axes.plot([first, third], [place, place], color=colour, linewidth=6, alpha=0.6, solid_capstyle="butt")
        axes.plot([middle], [place], marker="|", markersize=9, markeredgewidth=2, color=colour)
    axes.set_yticks(range(len(shown)), [row["name"] for row in shown])
    axes.set_xlabel("time of one text: 1st to 99th percentile, middle half, median (ms)")
    return _finished(figure, axes, [], legend=False)


def _worth_showing(rows: Sequence[Row]) -> list[Row]:
    """Leave out what failed, and the commonest label: it has no quality to show and stretches both axes."""
    return [row for row in rows if "failed" not in row and row["settings"].get("floor") != "majority"]


def _front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Draw the edge that nothing is both left of and above."""
    edge: list[tuple[float, float]] = []
    for across, height in sorted(points, key=lambda point: (point[0], -point[1])):
        if not edge or height > edge[-1][1]:
            edge.append((across, height))
    if edge:
        axes.step(*zip(*edge, strict=True), where="post", color=GREY, linewidth=1, alpha=0.6, linestyle="--", zorder=1)


def _finished(figure: Figure, axes: Axes, names: Sequence[Name], *, legend: bool = True) -> str:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(visible=True, alpha=0.2)
    axes.margins(x=0.12)
    if legend:
        axes.set_ylabel("macro-F1 with 95 % interval over the test texts")
        named = {"int8": "potstill int8", "fp32": "potstill fp32", "teacher": "teacher", "peer": "peer", "floor": "floor"}
        handles = [axes.scatter([], [], s=22, color=COLOURS[key], label=name) for key, name in named.items()]
        box = axes.legend(handles=handles, loc="lower right", fontsize=8, frameon=False)
        for text in box.get_texts():
            text.set_color(GREY)
    for part in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
        part.set_color(GREY)
    axes.tick_params(colors=GREY, which="both", labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(GREY)
    place_names(axes, names, size=7, colour=GREY)
    return as_svg(figure, transparent=True)
