"""From a report's figures to what people look at: a table, a picture, and one self-contained HTML page."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from distill.storage import write_atomically
from export.tables import COLUMNS, PER_CLASS_COLUMNS, cells_of, per_class_cells, verdict_of

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"

GREY = "#6b7280"  # reads on white and on black

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_COLOURS = {"pytorch": "#b45309", "onnxruntime": "#0f766e", "scikit-learn": "#64748b", "none": "#64748b"}


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json` and, from it, `report.html`."""
    write_atomically(out / REPORT_JSON, json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_atomically(out / REPORT_HTML, html_of(report))


def html_of(report: Mapping[str, Any]) -> str:
    """Return a page that needs no other file and no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        verdict=verdict_of(report["rows"]),
        columns=COLUMNS,
        rows=[cells_of(row) for row in report["rows"]],
        picture=picture_of(report["rows"]),
        noisy=[row["name"] for row in report["rows"] if row.get("noisy")],
        per_class_columns=PER_CLASS_COLUMNS,
        per_class_rows=per_class_cells(report["rows"]),
    )


def picture_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of macro-F1 against single-text latency, the area of a point being what must be shipped.

    Args:
        rows: Rows with `p50_ms`; rows without are left out, and so is the majority class, which has no quality to show.
    """
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    shown = [row for row in rows if row.get("p50_ms") and row["name"] != "majority"]
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
        axes.scatter(row["p50_ms"], row["macro_f1"], s=40 + (row["size_bytes"] or 0) / 4e5, color=colour, zorder=3)
        label = f"{row['name']} {row['precision']}" if row["runtime"] == "onnxruntime" else row["name"]
        axes.annotate(
            label.replace("_", " "),
            (row["p50_ms"], row["macro_f1"]),
            xytext=(9, -13) if _hides_behind_a_better(row, shown) else (9, 6),
            textcoords="offset points",
            fontsize=8.5,
            color=GREY,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.22)
    axes.set_xlabel("median time of one text, tokenization inside, one thread (ms, log scale)")
    axes.set_ylabel("macro-F1 with 95 % interval")
    axes.grid(visible=True, alpha=0.25)
    return svg_of(figure)


def svg_of(figure: Figure) -> str:
    """Return a figure of one plot as SVG whose labels read on white and on black."""
    (axes,) = figure.axes
    for part in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
        part.set_color(GREY)
    axes.tick_params(colors=GREY, which="both")
    for spine in axes.spines.values():
        spine.set_color("#9ca3af")
    return as_svg(figure)


def as_svg(figure: Figure, *, transparent: bool = False) -> str:
    """Return a figure as SVG; the same figure gives the same bytes."""
    target = io.StringIO()
    # Ids from a fixed salt and no date or link: the page names no other place.
    with matplotlib.rc_context({"svg.hashsalt": "potstill"}):
        figure.savefig(
            target, format="svg", transparent=transparent, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = target.getvalue()
    return svg[svg.index("<svg") :]


def _hides_behind_a_better(row: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a better classifier stands so near that its name would be written over this one's."""
    return any(
        other["macro_f1"] > row["macro_f1"]
        and other["macro_f1"] - row["macro_f1"] < 0.03
        and 0.5 < other["p50_ms"] / row["p50_ms"] < 2
        for other in others
    )
