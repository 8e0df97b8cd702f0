"""The picture of rows: macro-F1 against the time of one text, or against the size of what is shipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from matplotlib.figure import Figure

from export.measure.drawing import GREY, Name, logarithmic, place_names, svg_of
from export.measure.tables import estimate_of

Across = Literal["p50_ms", "size_bytes"]
FAMILIES: Final = {
    "int8": ("potstill int8", "#0d9488"),
    "fp32": ("potstill fp32", "#3b82f6"),
    "teacher": ("teacher", "#d97706"),
    "pytorch": ("PyTorch", "#d97706"),
    "peer": ("peer", "#a855f7"),
    "floor": ("floor", "#7b8494"),
}
"""Kinds of rows: what the legend calls them, and their colour. Where rows do not say who is the teacher, PyTorch is one."""

_OF_RUNTIME: Final = {"pytorch": "pytorch", "scikit-learn": "floor"}
_ACROSS: Final[Mapping[Across, tuple[float, str]]] = {
    "p50_ms": (1, "median time of one text, tokenization included, one thread (ms, log scale)"),
    "size_bytes": (1e6, "what must be shipped to answer (MB, log scale)"),
}
"""Figures that macro-F1 is drawn against: unit and label."""


def picture_of(rows: Sequence[Mapping[str, Any]], *, across: Across = "p50_ms", score: str = "macro-F1") -> str:
    """Return an SVG of macro-F1 against a figure, with intervals; the area of a point is the size of the files to ship.

    No point is both left of and above the Pareto front.

    Args:
        rows: Rows with a `family`, or else a `runtime`; those without the figure and the majority class are left out.
        across: The figure.
        score: What the rows have in place of macro-F1, for the label of the axis.
    """
    unit, label = _ACROSS[across]
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes, names, families = figure.add_subplot(), [], set()
    for row in rows:
        if not row.get(across) or row["name"] == "majority":
            continue
        family = row.get("family") or _OF_RUNTIME.get(row["runtime"], row["precision"])
        families.add(family)
        colour, area = FAMILIES[family][1], 20 + (row["size_bytes"] or 0) / 1e6
        found, height = estimate_of(row, across), estimate_of(row, "macro_f1")
        value, low, high = found.value / unit, found.low / unit, found.high / unit
        axes.errorbar(
            value,
            height.value,
            xerr=[[value - low], [high - value]],
            yerr=[[height.value - height.low], [height.high - height.value]],
            color=colour,
            elinewidth=0.8,
            alpha=0.4,
        )
        axes.scatter(value, height.value, s=area, color=colour, zorder=3, marker="D" if family in ("peer", "floor") else "o")
        name = row["name"].replace("_", " ") if "runtime" in row else row["name"]
        name += f" {row['precision']}" if row.get("runtime") == "onnxruntime" else ""
        names.append(Name(name, value, height.value, radius=math.sqrt(area) / 2, interval=(height.low, height.high)))
    if names:
        values, heights = np.array(sorted((each.x, each.y) for each in names)).T
        best = np.maximum.accumulate(heights)
        axes.step(
            values, best, where="post", color=GREY, linewidth=1, alpha=0.6, linestyle="--", zorder=1, label="Pareto front"
        )
        for family, (shown, colour) in FAMILIES.items():
            if family in families:
                axes.scatter([], [], s=22, color=colour, label=shown)
        axes.legend(loc="lower right", fontsize=8, frameon=False, labelcolor=GREY)
    logarithmic(axes, label)
    axes.set_ylabel(f"{score} with 95 % interval")
    axes.margins(x=0.15)
    place_names(axes, names, size=7.5)
    return svg_of(figure, transparent=True)
