"""What all pictures share: SVG that needs no other file, colours for light and dark pages, names that do not overlap."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

GREY: Final = "#6b7280"  # readable on white; `inline` lets a page choose another one

_DISTANCES: Final = (7, 12, 18, 26, 36, 48, 62, 78, 96, 120)
_DIRECTIONS: Final = 16
_LEADER_FROM: Final = 24
"""Names further from their point than this, in points of 1/72 inch, get a thin line to it."""


@dataclass(frozen=True)
class Name:
    """A name to write beside a point.

    Attributes:
        text: What to write.
        x: Of the point, in data coordinates.
        y: Of the point, in data coordinates.
        radius: Of the point's mark, in points of 1/72 inch.
        bold: Whether to write it in bold.
        interval: Of the point on the y-axis, if one is drawn.
    """

    text: str
    x: float
    y: float
    radius: float = 3.0
    bold: bool = False
    interval: tuple[float, float] | None = None


def place_names(
    axes: Axes, names: Sequence[Name], *, size: float = 8.5, colour: str = GREY, avoid: Sequence[Bbox] = ()
) -> list[Annotation]:
    """Write each name near its point, inside the plot, where it covers no other name and as few marks as possible.

    Limits, scales and all marks must be final: places are compared by the extents of the drawn texts.

    Args:
        axes: The plot.
        names: Names; bold ones are placed first, then those of the highest points.
        size: Of the letters, in points of 1/72 inch.
        colour: Of the letters.
        avoid: Boxes in display coordinates that should stay free, such as intervals and lines.

    Returns:
        The texts, in the order of `names`.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not names:
        return []
    figure.draw_without_rendering()
    unit = figure.dpi / 72
    frame, legend = axes.get_window_extent(), axes.get_legend()
    centres = [tuple(axes.transData.transform((name.x, name.y))) for name in names]
    marks = [_around(centre, name.radius * unit) for centre, name in zip(centres, names, strict=True)]
    bars = [_bar_of(axes, name, name.interval) for name in names if name.interval is not None]
    taken: list[Bbox] = [] if legend is None else [legend.get_window_extent()]
    placed: dict[int, Annotation] = {}
    for index in sorted(range(len(names)), key=lambda one: (not names[one].bold, -centres[one][1], centres[one][0])):
        name = names[index]
        text = axes.annotate(
            name.text,
            (name.x, name.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            color=colour,
            ha="center",
            va="center",
            fontweight="bold" if name.bold else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.7, "shrinkA": 0, "shrinkB": 0},
        )
        assert text.arrow_patch is not None  # noqa: S101 - arrowprops makes one
        extent = text.get_window_extent().padded(1.5 * unit)
        others = [centre for centre in centres if centre != centres[index]]
        soft = [*marks, *bars, *avoid]
        shift, distance = _best_shift(extent, name.radius, unit, frame=frame, hard=taken, soft=soft, others=others)
        text.set_position((shift[0] / unit, shift[1] / unit))
        text.arrow_patch.set_visible(distance >= _LEADER_FROM)
        taken.append(extent.translated(*shift))
        placed[index] = text
    return [placed[index] for index in range(len(names))]


def logarithmic(axes: Axes, label: str) -> None:
    """Give a plot a logarithmic x-axis with plain numbers, and a grid."""
    axes.set(xscale="log", xlabel=label)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(which="both", labelsize=8)
    axes.grid(visible=True, alpha=0.2)


def svg_of(figure: Figure, *, transparent: bool = False, prefix: str = "") -> str:
    """Return a figure with one plot as SVG, with labels that are readable on white and on black."""
    (axes,) = figure.axes
    for part in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
        part.set_color(GREY)
    axes.tick_params(colors=GREY, which="both")
    axes.spines[:].set_color("#9ca3af")
    return as_svg(figure, transparent=transparent, prefix=prefix)


def as_svg(figure: Figure, *, transparent: bool = False, prefix: str = "") -> str:
    """Return a figure as SVG; the bytes are reproducible.

    Args:
        figure: The figure.
        transparent: Draw no background.
        prefix: Of every id, for a page that shows several pictures.
    """
    target = io.StringIO()
    # A fixed salt for ids, no date and no link: reproducible, and nothing is loaded from elsewhere.
    with matplotlib.rc_context({"svg.hashsalt": "potstill"}):
        figure.savefig(
            target, format="svg", transparent=transparent, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg) if prefix else svg


def inline(svg: str, *, words: str) -> str:
    """Return an SVG for inside a page: greys in the page's own text colour, and `words` for those who cannot see it.

    Args:
        svg: As `as_svg` returns it.
        words: What the picture shows; inserted as given, so they must be escaped.
    """
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL).replace(GREY, "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1)


def _around(centre: tuple[float, ...], radius: float) -> Bbox:
    return Bbox.from_bounds(centre[0] - radius, centre[1] - radius, 2 * radius, 2 * radius)


def _bar_of(axes: Axes, name: Name, interval: tuple[float, float]) -> Bbox:
    (x, low), (_, high) = (axes.transData.transform((name.x, end)) for end in interval)
    return Bbox.from_extents(x - 1, low, x + 1, high)


def _gap(box: Bbox, point: tuple[float, ...]) -> float:
    return math.hypot(max(box.x0 - point[0], 0, point[0] - box.x1), max(box.y0 - point[1], 0, point[1] - box.y1))


def _best_shift(
    extent: Bbox,
    radius: float,
    unit: float,
    *,
    frame: Bbox,
    hard: Sequence[Bbox],
    soft: Sequence[Bbox],
    others: Sequence[tuple[float, ...]],
) -> tuple[tuple[float, float], float]:
    """Return the cheapest shift of a text, in display units, and its distance in points.

    Overlapping another name or leaving the plot costs more than any mark covered, and a mark, or a place that is nearer to
    the point of another name, more than any small distance.
    """
    middle = ((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2)  # the point itself
    best, least, distance_of_best = (0.0, 0.0), math.inf, 0.0
    for distance in _DISTANCES:
        for step in range(_DIRECTIONS):
            angle = math.pi / 4 + 2 * math.pi * step / _DIRECTIONS  # the upper right first
            away = (radius + distance) * unit
            x = math.cos(angle) * (away + extent.width / 2)
            y = math.sin(angle) * (away * 0.6 + extent.height / 2)
            box = extent.translated(x, y)
            inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
            cost = 1e6 * (sum(box.overlaps(other) for other in hard) + (not inside))
            cost += 40 * sum(box.overlaps(other) for other in soft) + distance + step / 10
            own = _gap(box, middle)
            cost += 60 * any(_gap(box, other) < own for other in others)
            if cost < least:
                best, least, distance_of_best = (x, y), cost, float(distance)
    return best, distance_of_best
