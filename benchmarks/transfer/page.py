"""The `transfer` scenario on a page: its tables as Markdown, and the picture of the learning curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from statistics import fmean

from matplotlib.figure import Figure

from benchmarks.harness.scenario import Result, markdown_table, unfinished
from benchmarks.transfer.figures import (
    CHINESE,
    CURVE_LINES,
    CURVE_PAIR,
    DOMAINS,
    LABELS_A_CLASS,
    STAND_IN,
    choices_of,
    curve_of,
    features_of,
    matrix_of,
    runs_of,
    truth_of,
    unlabelled_of,
    ways_of,
)
from benchmarks.transfer.recipes import ADAPTED_TEXTS
from distill.evaluation.intervals import Estimate
from export.measure.drawing import GREY, logarithmic, svg_of
from export.measure.tables import estimate_of

ORIGINS_IN_WORDS = {
    "majority": "majority class",
    "zero_shot_movies": "the two-way teacher of movies unchanged, no labels",
    "zero_shot_tweets": "the two-way teacher of tweets unchanged, no labels",
    "tfidf": "TF-IDF",
    "random": "random weights",
    "minilm": "the encoder alone",
    "movies": "the two-way teacher of movies, fine-tuned",
    "tweets": "the two-way teacher of tweets, fine-tuned",
}
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
WAYS_IN_WORDS = {
    "tweets-three-way": ("tweets three way, 100 labels a class", "the encoder alone", ORIGINS_IN_WORDS),
    "domains": ("domains, 100 labels a class", "the encoder alone", ORIGINS_IN_WORDS),
    CHINESE: ("Chinese reviews, {num_labels:,} labels", "training from scratch", LANGUAGE_IN_WORDS),
}
"""Heads of the tables of other tasks, and their ways."""

Table = tuple[Sequence[str], Sequence[Sequence[str]], *tuple[int, ...]]
"""Columns, cells, and the numbers of further columns than the first that are aligned to the left."""

COLOURS = {"parameters": "#0d9488", "features": "#3b82f6", "tfidf": "#7b8494"}
INTERVAL = "{:.3f} ({:.3f}-{:.3f})"
GAIN = "{:+.3f} ({:+.3f} to {:+.3f})"


def transfer_table(result: Result) -> str:
    """Return every table of the scenario, those whose cells are there."""
    makers = (_matrix, _without_labels, _stand_in, _features, _curve, _ways, _choices)
    tables = [
        markdown_table(columns, cells, left=(0, *left)) for make in makers for columns, cells, *left in make(result) if cells
    ]
    gains = {f"{target} from {source}": cell.gain for (source, target), cell in matrix_of(result).items() if cell.gain}
    unclear = [name for name, gain in gains.items() if gain.low <= 0]
    said = [f"{len(gains) - len(unclear)} of {len(gains)} gains are above 0 beyond their interval."] if gains else []
    said += [f"Not shown to help: {', '.join(unclear)}."] if unclear else []
    said += unfinished(result, "cells")
    return "\n\n".join([*tables, *said])


def _matrix(result: Result) -> Iterator[Table]:
    """What few labels of a target give, from the teacher of each source."""
    shown = {
        place: ", ".join(filter(None, (_shown(one.macro_f1), _shown(one.gain, GAIN))))
        for place, one in matrix_of(result).items()
    }
    yield (
        ["from, 200 labels of", *DOMAINS],
        [
            ["the encoder alone", *(shown.get((target, target), "") for target in DOMAINS)],
            *(
                [source, *("" if source == target else shown.get((source, target), "") for target in DOMAINS)]
                for source in DOMAINS
            ),
            ["random weights (one seed)", *_means(result, kind="scratch")],
            ["TF-IDF", *_means(result, kind="floor", source="tfidf", shots=LABELS_A_CLASS)],
        ],
    )


def _without_labels(result: Result) -> Iterator[Table]:
    """What is reached without a label of the target, and how much of the gap to its own teacher a student closes."""
    students = unlabelled_of(result)
    kept = {
        target: "{:.3f} ({:.1%}, {:.1%} to {:.1%})".format(one.macro_f1.value, *astuple(one.retention))
        for target, one in students.items()
    }
    yield (
        ["no label of the target", *DOMAINS],
        [
            *([f"teacher of {source}", *_means(result, kind="whole", source=source)] for source in DOMAINS),
            ["student of the other three's teachers (share of its own teacher's)", *(kept.get(each, "") for each in DOMAINS)],
            ["majority class", *_means(result, kind="floor", source="majority")],
        ],
    )
    yield (
        ["without its labels", "mean of their teachers", "best of their teachers", "gap closed from the mean", "from the best"],
        [
            [
                target,
                *(f"{start:.3f}" for start in one.starts),
                *("no gap" if closed is None else f"{closed:.0%}" for closed in one.closed),
            ]
            for target, one in students.items()
        ],
    )


def _stand_in(result: Result) -> Iterator[Table]:
    """What each recipe of a student without labels reaches on the stand-in, the best in bold."""
    if found := [row for row in result["rows"] if row["kind"] == "stand_in"]:
        scores = {row["recipe"].replace("_", " "): estimate_of(row, "macro_f1") for row in found}
        best = max(score.value for score in scores.values())
        cells = [[name, f"**{_shown(one)}**" if one.value == best else _shown(one)] for name, one in scores.items()]
        yield [f"{STAND_IN} with its labels hidden, one seed", f"on {found[0]['num_texts']:,} texts of it"], cells


def _features(result: Result) -> Iterator[Table]:
    """Movies from frozen features beside whole fine-tuning: quality, time, and the time of a second run from the cache."""
    if found := features_of(result):
        whole, cold, warm = (found[name].value for name in ("fine_tuning_s", "features_cold_s", "features_warm_s"))
        gap, share = found["features_gap"], found["features_time_share"].value
        less = GAIN.format(-gap.value, -gap.high, -gap.low)
        yield (
            ["movies with all labels", "macro-F1", "seconds", "share of the time"],
            [
                ["fine-tuned whole", f"{found['tuned_macro_f1'].value:.3f}", f"{whole:.0f}", ""],
                ["a head on frozen features", f"{found['macro_f1'].value:.3f}, {less}", f"{cold:.1f}", f"{share:.1%}"],
                ["the same again, features from the cache", "the same", f"{warm:.1f}", f"{warm / whole:.1%}"],
            ],
        )


def _curve(result: Result) -> Iterator[Table]:
    """Macro-F1 by the number of labels, a line for each way and origin."""
    curve = curve_of(result)
    counts = sorted({count for line in curve.values() for count in line})
    yield (
        [f"{CURVE_PAIR[1]}, number of labels", *map(str, counts)],
        [[CURVE_LINES[name], *(_shown(line.get(count)) for count in counts)] for name, line in curve.items()],
    )


def _ways(result: Result) -> Iterator[Table]:
    """For each other task, and for Chinese, a line for each way, and the confusions of the best one."""
    for name, (head, against, in_words) in WAYS_IN_WORDS.items():
        if found := ways_of(result, name):
            best = max(found, key=lambda one: one.macro_f1.value)
            row = next(iter(best.runs.values()))
            yield (
                [head.format(**row), "macro-F1", f"against {against}"],
                [[in_words[one.name], _shown(one.macro_f1), _shown(one.gain, GAIN)] for one in found],
            )
            yield (
                [f"{in_words[best.name]}: predicted", *row["labels"], "texts"],
                [
                    [f"true {label}", *(f"{count / max(1, sum(counts)):.1%}" for count in counts), f"{sum(counts):,}"]
                    for label, counts in zip(row["labels"], truth_of(result, name).confusion(best.runs), strict=True)
                ],
            )


def _choices(result: Result) -> Iterator[Table]:
    """Which candidate was recommended for each task, and which was really best."""
    yield (
        ["task", "recommended", "best when fine-tuned", "within 0.01", "rank correlation"],
        [
            [
                trial["task"],
                *(trial[key].replace("_", " ") for key in ("recommended", "best")),
                "yes" if trial["within"] else "no",
                f"{trial['rank_correlation']:.2f}",
            ]
            for trial in choices_of(result["rows"])
        ],
        *(1, 2, 3),
    )


def _shown(found: Estimate | None, pattern: str = INTERVAL) -> str:
    return "" if found is None else pattern.format(*astuple(found))


def _means(result: Result, **wanted: str | int) -> list[str]:
    """Return the mean macro-F1 over the rows that have these values, for each domain."""
    found = [[row["macro_f1"] for row in runs_of(result["rows"], target=target, **wanted).values()] for target in DOMAINS]
    return [f"{fmean(scores):.3f}" if scores else "" for scores in found]


def learning_curve(result: Result) -> str:
    """Return an SVG of macro-F1 against the number of labels; a dashed line comes from the encoder alone."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes, curve = figure.add_subplot(), curve_of(result)
    for (way, source), line in curve.items():
        values, low, high = zip(*map(astuple, line.values()), strict=True)
        axes.fill_between(list(line), low, high, color=COLOURS[way], alpha=0.08, linewidth=0)
        shown_as, dashes = CURVE_LINES[way, source], "-" if source == CURVE_PAIR[0] else "--"
        axes.plot(list(line), values, label=shown_as, color=COLOURS[way], marker="o", markersize=4, linestyle=dashes)
    logarithmic(axes, f"labels of {CURVE_PAIR[1]} (log scale)")
    axes.set(xticks=sorted({count for line in curve.values() for count in line}), ylabel="macro-F1 with 95 % interval")
    axes.minorticks_off()
    if curve:
        axes.legend(fontsize=8, frameon=False, labelcolor=GREY)
    return svg_of(figure, transparent=True)
