"""The pictures of a run: score against time of every form, time against size where nothing fits, and calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from distill.evaluation.scores import RECALL, metric_words
from export.fitting.choose import MEGABYTE
from export.fitting.reporting.result import CalibrationBin, FitReport, FormResult, Reference, Score
from export.fitting.reporting.summary import reference_words, score_of
from export.measure.drawing import GREY, Name, inline, place_names, svg_of

_WINNER, _FORM, _TEACHER, _FADED = "#0f8a80", "#5b7fb5", "#c2620e", "#9ca3af"
_SIZES = {"wide": (7.4, 4.4), "narrow": (3.9, 5.0)}
"""Inches; the page shows the narrow one on a phone, where the letters of the other one would be too small."""


@dataclass(frozen=True)
class _Point:
    name: str
    ms: float
    score: Score
    size_bytes: int | None
    colour: str
    marker: str = "o"
    filled: bool = True
    bold: bool = False


def score_pictures(report: FitReport) -> dict[str, str]:
    """Return the picture of score against time as SVG by width, "wide" and "narrow"; empty if nothing was scored."""
    points = _points(report)
    if not any(point.marker == "o" for point in points):
        return {}
    words = f"{metric_words(report.metric)} of every student against its time of one text. " + "; ".join(
        f"{point.name}: {point.score.value:.3f} at {point.ms:.2f} ms" for point in points
    )
    return {
        width: inline(svg_of(score_figure(report, width), transparent=True, prefix=f"{width}-"), words=str(escape(words)))
        for width in _SIZES
    }


def score_figure(report: FitReport, width: str) -> Figure:
    """Draw score against time: points with intervals, lines for floors, the least score and the budget of time."""
    points, (figure, axes) = _points(report), _plot(width)
    # Limits first: where all scores are equal, those that matplotlib chooses have no height.
    times = [point.ms for point in points] + ([report.budget.max_ms] if report.budget.max_ms else [])
    axes.set(xlim=(min(times) / 1.8, max(times) * 1.8))
    levels = _levels(report, points)
    heights = [end for point in points for end in (point.score.low, point.score.high)] + [height for _, height in levels]
    room = 0.14 * max(max(heights) - min(heights), 0.01)
    axes.set(ylim=(min(heights) - room, max(heights) + room))
    for point in points:
        axes.errorbar(
            point.ms,
            point.score.value,
            yerr=[[max(0.0, point.score.value - point.score.low)], [max(0.0, point.score.high - point.score.value)]],
            color=point.colour,
            elinewidth=1,
            capsize=2.5,
            alpha=0.6,
        )
        axes.scatter(
            point.ms,
            point.score.value,
            s=_area(point.size_bytes),
            marker=point.marker,
            facecolor=point.colour if point.filled else "none",
            edgecolor=point.colour,
            zorder=3,
        )
    names = [
        Name(
            _plain(point.name),
            point.ms,
            point.score.value,
            radius=math.sqrt(_area(point.size_bytes)) / 2,
            bold=point.bold,
            interval=(point.score.low, point.score.high),
        )
        for point in points
    ]
    names += [Name(_plain(name), _free_x(axes, height, names), height, radius=0) for name, height in levels]
    metric = "recall of one label" if report.metric.startswith(RECALL) else metric_words(report.metric)
    axes.set(xlabel="median time of one text, one thread\n(ms, log scale)", ylabel=f"{metric} with 95 % interval")
    if report.budget.max_mb:
        _size_budget(axes, report.budget.max_mb)
    lines = _lines(figure, axes, heights=[height for _, height in levels], ms=report.budget.max_ms)
    place_names(axes, names, avoid=lines)
    return figure


def _size_budget(axes: Axes, max_mb: float) -> None:
    """Show above the frame how large the point of a student may be."""
    label = f"budget {max_mb:g} MB"
    mark = axes.scatter([], [], s=_area(int(max_mb * MEGABYTE)), c="none", edgecolor=GREY, linestyle="--", label=label)
    axes.legend(handles=[mark], loc="lower right", bbox_to_anchor=(1, 1.04), frameon=False, fontsize=8.5, labelcolor=GREY)


def cost_pictures(report: FitReport) -> dict[str, str]:
    """Return the picture of size against time of the untrained forms as SVG by width; for runs in which nothing was scored."""
    if not report.forms:
        return {}
    words = "Size of every student against its time of one text. " + "; ".join(
        f"{form.name}: {form.predicted_ms:.2f} ms, {form.predicted_bytes / MEGABYTE:.1f} MB" for form in report.forms
    )
    return {
        width: inline(svg_of(cost_figure(report, width), transparent=True, prefix=f"{width}-"), words=str(escape(words)))
        for width in _SIZES
    }


def cost_figure(report: FitReport, width: str) -> Figure:
    """Draw size against time of the untrained forms, with the budgets as lines."""
    figure, axes = _plot(width)
    times = [form.predicted_ms for form in report.forms]
    sizes = [form.predicted_bytes / MEGABYTE for form in report.forms]
    near = [form.name in report.nearest for form in report.forms]
    axes.scatter(times, sizes, color=[_WINNER if one else _FORM for one in near], zorder=3)
    max_ms, max_mb = report.budget.max_ms, report.budget.max_mb
    all_ms, all_mb = times + ([max_ms] if max_ms else []), sizes + ([max_mb] if max_mb else [])
    axes.set(xlim=(min(all_ms) / 1.8, max(all_ms) * 1.8), ylim=(0, max(all_mb) * 1.2))
    names = [
        Name(_plain(form.name), form.predicted_ms, form.predicted_bytes / MEGABYTE, bold=bold)
        for form, bold in zip(report.forms, near, strict=True)
    ]
    if max_mb:
        names.append(Name(f"budget {max_mb:g} MB", _free_x(axes, max_mb, names), max_mb, radius=0))
    axes.set(xlabel="median time of one text, untrained, one thread\n(ms, log scale)", ylabel="size to ship (MB)")
    place_names(axes, names, avoid=_lines(figure, axes, heights=[max_mb] if max_mb else [], ms=max_ms))
    return figure


def calibration_picture(bins: Sequence[CalibrationBin]) -> str:
    """Return an SVG of the share of right answers against the mean top probability; empty without answers."""
    bins = [each for each in bins if each.count]
    if not bins:
        return ""
    figure = Figure(figsize=(3.9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=_FADED, linewidth=1, linestyle="--")
    axes.bar(
        [each.low for each in bins],
        [each.accuracy for each in bins],
        width=[each.high - each.low for each in bins],
        align="edge",
        color=_WINNER,
        alpha=0.3,
    )
    most = max(each.count for each in bins)
    areas = [15 + 85 * each.count / most for each in bins]
    axes.scatter([each.confidence for each in bins], [each.accuracy for each in bins], s=areas, color=_WINNER, zorder=3)
    left = min(each.low for each in bins)
    axes.set(xlim=(left, 1.02), ylim=(0, 1.04), xlabel="mean probability of the answer", ylabel="share of right answers")
    words = "; ".join(f"{each.count} answers near {each.confidence:.2f}: {each.accuracy:.1%} right" for each in bins)
    return inline(svg_of(figure, transparent=True, prefix="calibration-"), words=f"Calibration of the student. {words}")


def floors_below(report: FitReport) -> list[Reference]:
    """Return the floors that are too low for the picture of scores."""
    points = _points(report)
    return [floor for floor in report.floors if (score := score_of(floor, report.measured_on)) and not _is_near(score, points)]


def _points(report: FitReport) -> list[_Point]:
    found = []
    for form in report.forms:
        score = score_of(form, report.measured_on)
        if score is not None:
            found.append(_point_of(form, score))
    winner = next((form for form in report.forms if form.status == "winner"), None)
    for reference, marker, colour in ((report.teacher, "s", _TEACHER), (report.control, "D", _WINNER)):
        score = score_of(reference, report.measured_on) if reference else None
        if reference is None or score is None:
            continue
        # The control has the winner's form, so its graph would take the same time.
        ms = reference.p50_ms if reference is report.teacher or winner is None else _ms_of(winner)
        if ms:
            size = reference.size_bytes if reference is report.teacher or winner is None else winner.measured_bytes
            name = "control (labels alone)" if reference is report.control else "teacher"
            found.append(_Point(name, ms, score, size, colour, marker, filled=reference is report.teacher))
    return found


def _point_of(form: FormResult, score: Score) -> _Point:
    over = form.status == "over_budget"
    chosen = form.status == "winner"
    return _Point(
        form.name,
        _ms_of(form),
        score,
        form.predicted_bytes if form.measured_bytes is None else form.measured_bytes,
        _FADED if over else _WINNER if chosen else _FORM,
        filled=not over,
        bold=chosen,
    )


def _ms_of(form: FormResult) -> float:
    return form.predicted_ms if form.measured_ms is None else form.measured_ms


def _levels(report: FitReport, points: Sequence[_Point]) -> list[tuple[str, float]]:
    """Return names and heights of the horizontal lines: floors that are near, the least score, a teacher without a time."""
    scores = [(reference_words(floor), score_of(floor, report.measured_on)) for floor in report.floors]
    found = [(name, score.value) for name, score in scores if score and _is_near(score, points)]
    teacher = score_of(report.teacher, report.measured_on)
    if teacher is not None and report.budget.min_kept and report.metric == "macro_f1":
        found.append((f"{report.budget.min_kept:.0%} of the teacher", teacher.value * report.budget.min_kept))
    if teacher is not None and not report.teacher.p50_ms:
        found.append(("teacher", teacher.value))
    return found


def _is_near(score: Score, points: Sequence[_Point]) -> bool:
    """Return whether a line at this score leaves most of the picture to the points."""
    ends = [end for point in points for end in (point.score.low, point.score.high)]
    return not ends or score.value >= min(ends) - 1.5 * max(max(ends) - min(ends), 0.02)


def _area(size_bytes: int | None) -> float:
    return min(400.0, 30 + (size_bytes or 0) / 4e5)


def _plot(width: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZES[width], layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, alpha=0.25)
    return figure, axes


def _lines(figure: Figure, axes: Axes, *, heights: Sequence[float], ms: float | None) -> list[Bbox]:
    """Draw horizontal lines and the budget of time; return their boxes, on which no name should be written."""
    for height in heights:
        axes.axhline(height, color=GREY, linewidth=1, linestyle=":")
    if ms:
        axes.axvline(ms, color=GREY, linewidth=1, linestyle="--")
        # Above the frame, where no other name is written.
        axes.annotate(
            f"budget {ms:g} ms",
            (ms, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8.5,
            color=GREY,
            ha="center",
        )
    figure.draw_without_rendering()  # the layout moves the axes
    frame, across = axes.get_window_extent(), [axes.transData.transform((1.0, height))[1] for height in heights]
    boxes = [Bbox.from_extents(frame.x0, y - 1, frame.x1, y + 1) for y in across]
    if ms:
        x = axes.transData.transform((ms, 0.0))[0]
        boxes.append(Bbox.from_extents(x - 1, frame.y0, x + 1, frame.y1))
    return boxes


def _free_x(axes: Axes, height: float, names: Sequence[Name]) -> float:
    """Return the place on a horizontal line that is furthest from every point."""
    points = [axes.transAxes.inverted().transform(axes.transData.transform((name.x, name.y))) for name in names]
    y = axes.transAxes.inverted().transform(axes.transData.transform((axes.get_xlim()[0], height)))[1]
    best = max((step / 20 for step in range(3, 18)), key=lambda x: min(math.hypot(x - one[0], y - one[1]) for one in points))
    return float(axes.transData.inverted().transform(axes.transAxes.transform((best, y)))[0])


def _plain(name: str) -> str:
    """Return a name in which matplotlib finds no formula."""
    return name.replace("$", r"\$")
