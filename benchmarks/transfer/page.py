"""The `transfer` scenario on a page: its tables as Markdown, and the picture of the learning curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.transfer.evaluation import gap_closed_of
from benchmarks.transfer.figures import CURVE_PAIR, DOMAINS, LABELS_A_CLASS, STAND_IN, choices_of, unlabelled_of
from benchmarks.transfer.recipes import ADAPTED_TEXTS
from export.measure.drawing import GREY, svg_of

Row = Mapping[str, Any]

LANGUAGE_IN_WORDS = {
    "majority": "majority class",
    "zero_shot": "the teacher of movies unchanged, no labels",
    "tfidf": "TF-IDF of one to three characters",
    "random": "from scratch: random layers, all trained",
    "random_frozen": "random layers, frozen: only the vocabulary is trained",
    "movies_frozen": "the teacher of movies, frozen: only the vocabulary is trained",
    "movies_whole": "the same, then all layers are trained",
    "movies_adapted": f"the teacher of movies, frozen: masked words of {ADAPTED_TEXTS:,} reviews first",
}

COLOURS = {"parameters": "#0d9488", "features": "#3b82f6", "tfidf": "#7b8494"}


def markdown_of_transfer(result: Row) -> str:
    """Return the matrix, what is reached without a label of the target, and the choices, as Markdown."""
    cells = {(cell["source"], cell["target"]): cell for cell in result["matrix"]}
    lines = ["| from, 200 labels of | " + " | ".join(DOMAINS) + " |", "|---" + "|--:" * len(DOMAINS) + "|"]
    alone = [_with_interval(cells.get((target, target))) for target in DOMAINS]
    lines.append("| the encoder alone | " + " | ".join(alone) + " |")
    for source in DOMAINS:
        row = ["" if source == target else _with_gain(cells.get((source, target))) for target in DOMAINS]
        lines.append(f"| {source} | " + " | ".join(row) + " |")
    scratch = [_mean_of(result["rows"], kind="scratch", target=target) for target in DOMAINS]
    lines.append("| random weights (one seed) | " + " | ".join(scratch) + " |")
    few = [_mean_of(result["rows"], kind="floor", source="tfidf", target=target, shots=LABELS_A_CLASS) for target in DOMAINS]
    lines.append("| TF-IDF | " + " | ".join(few) + " |")
    lines += ["", "| no label of the target | " + " | ".join(DOMAINS) + " |", "|---" + "|--:" * len(DOMAINS) + "|"]
    for source in DOMAINS:
        row = [_mean_of(result["rows"], kind="whole", source=source, target=target) for target in DOMAINS]
        lines.append(f"| teacher of {source} | " + " | ".join(row) + " |")
    kept = {one["target"]: one for one in unlabelled_of(result["rows"])}
    shown = [f"{kept[name]['macro_f1']:.3f} ({kept[name]['retention']:.1%})" if name in kept else "" for name in DOMAINS]
    lines.append("| student of the other three's teachers (share of its own teacher's) | " + " | ".join(shown) + " |")
    majority = [_mean_of(result["rows"], kind="floor", source="majority", target=target) for target in DOMAINS]
    lines.append("| majority class | " + " | ".join(majority) + " |")
    lines += ["", *_gap_in_lines(result["rows"]), *stand_in_in_lines(result["rows"])]
    lines += [*_features_in_lines(result), *_curve_in_lines(result.get("curve", []))]
    lines += [*_tasks_in_lines(result.get("tasks", [])), *_language_in_lines(result), *_choices_in_lines(result["rows"])]
    lost = [cell for cell in result["matrix"] if not cell.get("wins", True)]
    lines += [line for cell in lost for line in (f"For {cell['target']}: {cell['words']}", "")]
    missing = len(result["missing"])
    said = f"Unfinished: {missing} cells are missing, see `missing` in the result file. " if missing else ""
    return "\n".join(lines) + f"\n{said}Measured by `{result['command']}`."


def _gap_in_lines(rows: Sequence[Row]) -> list[str]:
    found = gap_closed_of(rows)
    if not found:
        return []
    said = ["mean of their teachers", "best of their teachers", "gap closed from the mean", "from the best"]
    lines = [f"| without its labels | {' | '.join(said)} |", "|---" + "|--:" * len(said) + "|"]
    for one in found:
        shares = [one[f"gap_closed_{name}"] for name in ("of_mean", "of_best")]
        closed = ["no gap" if share is None else f"{share:.0%}" for share in shares]
        lines.append(f"| {one['target']} | {one['teachers_mean']:.3f} | {one['teachers_best']:.3f} | {' | '.join(closed)} |")
    return [*lines, ""]


def _features_in_lines(result: Row) -> list[str]:
    """Movies from frozen features beside whole fine-tuning: quality, time, and the time of a second run from the cache."""
    runs = [row for row in result["rows"] if row["kind"] == "features"]
    figures = result.get("figures", {})
    if not runs or "features_gap" not in figures:
        return []
    seconds = {name: float(np.median([row[name] for row in runs])) for name in ("cold_s", "fine_tuning_s", "warm_s")}
    tuned = _mean_of(result["rows"], kind="whole", source="movies", target="movies")
    return [
        "| movies with all labels | macro-F1 | seconds | share of the time |",
        "|---|--:|--:|--:|",
        f"| fine-tuned whole | {tuned} | {seconds['fine_tuning_s']:.0f} |  |",
        f"| a head on frozen features | {_mean_of(runs)}, {-figures['features_gap']:+.3f} | {seconds['cold_s']:.1f} "
        f"| {figures['features_time_share']:.1%} |",
        f"| the same again, features from the cache | the same | {seconds['warm_s']:.1f} "
        f"| {seconds['warm_s'] / seconds['fine_tuning_s']:.1%} |",
        "",
    ]


def stand_in_in_lines(rows: Sequence[Row]) -> list[str]:
    """Return what each recipe of a student without labels reaches on the stand-in, the best in bold."""
    found = [row for row in rows if row["kind"] == "stand_in"]
    if not found:
        return []
    best = max(row["macro_f1"] for row in found)
    lines = [f"| {STAND_IN} with its labels hidden, one seed | on {found[0]['num_texts']:,} texts of it |", "|---|--:|"]
    for row in found:
        low, high = row["macro_f1_interval"]
        score = f"{row['macro_f1']:.3f} ({low:.3f}-{high:.3f})"
        lines.append(f"| {row['recipe'].replace('_', ' ')} | {f'**{score}**' if row['macro_f1'] == best else score} |")
    return [*lines, ""]


def _curve_in_lines(points: Sequence[Row]) -> list[str]:
    if not points:
        return []
    found = {(point["way"], point["source"], point["num_labels"]): point for point in points}
    counts = sorted({point["num_labels"] for point in points})
    lines = [f"| {CURVE_PAIR[1]}, number of labels | {' | '.join(map(str, counts))} |", "|---" + "|--:" * len(counts) + "|"]
    for way, source in dict.fromkeys((point["way"], point["source"]) for point in points):
        cells = [_with_interval(found.get((way, source, count))) for count in counts]
        lines.append(f"| {way_in_words(way, source)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _tasks_in_lines(found: Sequence[Row]) -> list[str]:
    lines = []
    for task in dict.fromkeys(one["task"] for one in found):
        ours = [one for one in found if one["task"] == task]
        lines += [f"| {task.replace('-', ' ')}, 100 labels a class | macro-F1 | against the encoder alone |", "|---|--:|--:|"]
        lines += _compared_in_lines(ours, origin_in_words)
    return lines


def _language_in_lines(result: Row) -> list[str]:
    found = result.get("language", [])
    if not found:
        return []
    count = next(row["num_labels"] for row in result["rows"] if row["kind"] == "language")
    lines = [f"| Chinese reviews, {count:,} labels | macro-F1 | against training from scratch |", "|---|--:|--:|"]
    return [*lines, *_compared_in_lines(found, lambda origin: LANGUAGE_IN_WORDS[origin])]


def _compared_in_lines(found: Sequence[Row], in_words: Callable[[str], str]) -> list[str]:
    """A line for each origin, and the confusions of the best one."""
    lines = []
    for one in found:
        gain = one.get("gain")
        said = f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})" if gain else ""
        lines.append(f"| {in_words(one['origin'])} | {_with_interval(one)} | {said} |")
    best = max(found, key=lambda one: one["macro_f1"]["value"])
    return [*lines, "", *confusion_in_lines(best["confusion"], best["labels"], title=in_words(best["origin"])), ""]


def confusion_in_lines(counts: Sequence[Sequence[int]], labels: Sequence[str], *, title: str) -> list[str]:
    """Return a confusion matrix as a table: of the texts of each true label, the share that was given each label.

    Args:
        counts: Shape (true label, given label).
        labels: Their names.
        title: Whose answers they are.
    """
    lines = [f"| {title}: predicted | {' | '.join(labels)} | texts |", "|---" + "|--:" * (len(labels) + 1) + "|"]
    for name, row in zip(labels, counts, strict=True):
        shares = [f"{count / max(1, sum(row)):.1%}" for count in row]
        lines.append(f"| true {name} | {' | '.join(shares)} | {sum(row):,} |")
    return lines


def way_in_words(way: str, source: str) -> str:
    """Return what a line of the learning curve is."""
    if way == "tfidf":
        return "TF-IDF"
    begun = "the encoder alone" if source == CURVE_PAIR[1] else f"the teacher of {source}"
    return f"{begun}, {'fine-tuned' if way == 'parameters' else 'as features'}"


def origin_in_words(origin: str) -> str:
    """Return what a row of another task comes from."""
    known = {
        "minilm": "the encoder alone",
        "random": "random weights",
        "tfidf": "TF-IDF",
        "majority": "majority class",
    }
    if origin.startswith("zero_shot_"):
        return f"the two-way teacher of {origin.removeprefix('zero_shot_')} unchanged, no labels"
    return known.get(origin, f"the two-way teacher of {origin}, fine-tuned")


def _choices_in_lines(rows: Sequence[Row]) -> list[str]:
    trials = choices_of(rows)
    if not trials:
        return []
    lines = ["| task | recommended | best when fine-tuned | within 0.01 | rank correlation |", "|---|---|---|---|--:|"]
    for trial in trials:
        names = [trial[key].replace("_", " ") for key in ("recommended", "best")]
        within = "yes" if trial["within"] else "no"
        lines.append(f"| {trial['task']} | {names[0]} | {names[1]} | {within} | {trial['rank_correlation']:.2f} |")
    return [*lines, ""]


def _with_interval(cell: Row | None) -> str:
    if cell is None:
        return ""
    found = cell["macro_f1"]
    return f"{found['value']:.3f} ({found['low']:.3f}-{found['high']:.3f})"


def _with_gain(cell: Row | None) -> str:
    if cell is None:
        return ""
    gain = cell["gain"]
    return f"{_with_interval(cell)}, {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"


def _mean_of(rows: Sequence[Row], **wanted: str | int) -> str:
    scores = [row["macro_f1"] for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    return f"{np.mean(scores):.3f}" if scores else ""


def learning_curve(result: Row) -> str:
    """Return an SVG of macro-F1 against the number of labels; a dashed line comes from the encoder alone."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    points = result.get("curve", [])
    for way, source in dict.fromkeys((point["way"], point["source"]) for point in points):
        line = [point for point in points if (point["way"], point["source"]) == (way, source)]
        across = [point["num_labels"] for point in line]
        found = [point["macro_f1"] for point in line]
        axes.fill_between(
            across, [one["low"] for one in found], [one["high"] for one in found], color=COLOURS[way], alpha=0.08, linewidth=0
        )
        axes.plot(
            across,
            [one["value"] for one in found],
            color=COLOURS[way],
            marker="o",
            markersize=4,
            linestyle="-" if source == CURVE_PAIR[0] else "--",
            label=way_in_words(way, source),
        )
    axes.set_xscale("log")
    axes.set_xticks(sorted({point["num_labels"] for point in points}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.set_xlabel(f"labels of {CURVE_PAIR[1]} (log scale)")
    axes.set_ylabel("macro-F1 with 95 % interval")
    axes.grid(visible=True, alpha=0.25)
    if points:
        axes.legend(fontsize=8, frameon=False, labelcolor=GREY)
    return svg_of(figure)
