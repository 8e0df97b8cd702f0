"""The picture of rows: macro-F1 against the time of one text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from export.measure.drawing import Name, place_names, svg_of

_COLOURS = {"pytorch": "#b45309", "onnxruntime": "#0f766e", "scikit-learn": "#64748b", "none": "#64748b"}


def picture_of(rows: Sequence[Mapping[str, Any]], *, score: str = "macro-F1") -> str:
    """Return an SVG of macro-F1 against single-text latency; the area of a point is the size of the files to ship.

    Args:
        rows: Rows; those without `p50_ms` and the majority class are left out.
        score: What the rows have in place of macro-F1, for the label of the axis.
    """
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    shown = [row for row in rows if row.get("p50_ms") and row["name"] != "majority"]
    names = []
    for row in shown:
        colour = _COLOURS[row["runtime"]]
        low, high = row["macro_f1_interval"]
        axes.errorbar(
            row["p50_ms"],
            row["macro_f1"],
            yerr=[[row["macro_f1"] - low], [high - row["macro_f1"]]],
            color=colour,
            elinewidth=1,
            capsize=2.5,
            alpha=0.55,
        )
        area = 40 + (row["size_bytes"] or 0) / 4e5
        axes.scatter(row["p50_ms"], row["macro_f1"], s=area, color=colour, zorder=3)
        label = f"{row['name']} {row['precision']}" if row["runtime"] == "onnxruntime" else row["name"]
        names.append(
            Name(label.replace("_", " "), row["p50_ms"], row["macro_f1"], radius=math.sqrt(area) / 2, interval=(low, high))
        )
    axes.set(
        xscale="log",
        xlabel="median time of one text, tokenization included, one thread (ms, log scale)",
        ylabel=f"{score} with 95 % interval",
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.22)
    axes.grid(visible=True, alpha=0.25)
    place_names(axes, names)
    return svg_of(figure)
