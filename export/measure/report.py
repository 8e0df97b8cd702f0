"""The HTML page of a report: tables and pictures in one self-contained file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from distill.storage import write_atomically
from export.measure.drawing import GREY, Name, inline, place_names, svg_of
from export.measure.tables import MOST_LABELS, confusion_table, per_class_table, table_of, verdict_of

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_COLOURS = {"pytorch": "#b45309", "onnxruntime": "#0f766e", "scikit-learn": "#64748b", "none": "#64748b"}


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json` and, from it, `report.html`."""
    write_atomically(out / REPORT_JSON, json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_atomically(out / REPORT_HTML, html_of(report))


def html_of(report: Mapping[str, Any]) -> str:
    """Return an HTML page that needs no other file and no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    rows = report["rows"]
    confusion = confusion_picture_of(rows)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        verdict=verdict_of(rows),
        figures=table_of(rows),
        picture=inline(picture_of(rows), words="Macro-F1 of every classifier against its time of one text"),
        noisy=[row["name"] for row in rows if row.get("noisy")],
        per_class=per_class_table(rows),
        confusion=confusion_table(rows),
        confusion_picture=inline(confusion, words="Confusion matrix of the int8 student") if confusion else "",
    )


def picture_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of macro-F1 against single-text latency; the area of a point is the size of the files to ship.

    Args:
        rows: Rows; those without `p50_ms` and the majority class are left out.
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
        ylabel="macro-F1 with 95 % interval",
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.22)
    axes.grid(visible=True, alpha=0.25)
    place_names(axes, names)
    return svg_of(figure)


def confusion_picture_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of the confusion matrix of the int8 student; the opacity of a cell is its share of the true label.

    Empty if that row has no confusion matrix or more than `MOST_LABELS` labels.
    """
    found = [row for row in rows if row["name"] == "student" and row["precision"] == "int8" and row.get("confusion")]
    if not found or len(found[0]["confusion"]) > MOST_LABELS:
        return ""
    counts, labels = np.array(found[0]["confusion"]), list(found[0]["per_class"])
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = 1.6 + 0.9 * len(labels)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.add_subplot()
    for (true, given), share in np.ndenumerate(shares):
        axes.add_patch(Rectangle((given - 0.5, true - 0.5), 1, 1, color=_COLOURS["onnxruntime"], alpha=share, linewidth=0))
        text = f"{counts[true, given]}\n{share:.1%}"
        axes.text(given, true, text, ha="center", va="center", fontsize=8.5, color="#ffffff" if share > 0.5 else GREY)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    limits = (-0.5, len(labels) - 0.5)
    axes.set(xlim=limits, ylim=limits[::-1], aspect="equal", xlabel="given label", ylabel="true label")
    return svg_of(figure)
