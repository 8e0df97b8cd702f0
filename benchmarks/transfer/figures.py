"""What the rows of the `transfer` scenario say, computed from them and the true labels: figures and intervals.

Every comparison is paired by seed and test text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.harness.answers import Answered, digits
from benchmarks.harness.scenario import Result, Row
from distill.evaluation.intervals import Estimate, Figure, mean_estimate
from distill.evaluation.metrics import confusion_matrix

DOMAINS: Final = ("movies", "amazon", "tweets", "nyt")
SEEDS: Final = (0, 1, 2)
LABELS_A_CLASS: Final = 100
CURVE_PAIR: Final = ("movies", "amazon")
"""Source and target of the learning curve."""

CURVE_SHOTS: Final = (8, 25, LABELS_A_CLASS, 400)
"""Labels a class of its points."""

CROSS_TASKS: Final = {
    "tweets-three-way": ("majority", "zero_shot_movies", "zero_shot_tweets", "tfidf", "random", "minilm", "movies", "tweets"),
    "domains": ("majority", "tfidf", "random", "minilm", "movies"),
}
"""Tasks with other labels than the sources', and what each is reached from."""

CHINESE: Final = "chinese"
FROM_SCRATCH: Final = "random"
LANGUAGE_ORIGINS: Final = (
    *("majority", "zero_shot", "tfidf"),
    *(FROM_SCRATCH, "random_frozen", "movies_frozen", "movies_whole", "movies_adapted"),
)
"""Ways into Chinese where every model at hand is English; with `_frozen` the layers stay, with `_whole` they then learn
too, with `_adapted` they stay while masked words are guessed before the labels are learnt."""

TASKS: Final = ("movies", "amazon", "tweets", "nyt", "domains")
CANDIDATES: Final = ("minilm", "lowest_3_layers", "random", "after_a_task")
NEAR: Final = 0.01
"""A recommended candidate counts as right within so much macro-F1 of the best."""

KEPT: Final = 0.95
STAND_IN: Final = "movies"
"""The domain on which the recipe of the students without labels is chosen; none of those is of it."""

UNLABELLED_RECIPES: Final = ("texts_of_one_source", "texts_and_labels_of_every_source")

Runs = Mapping[int, Row]
"""Rows of one cell by seed."""


@dataclass(frozen=True)
class Reached:
    """What one way of making a classifier reaches on some test texts.

    Attributes:
        name: The way.
        runs: Its rows by seed.
        macro_f1: Mean over seeds.
        gain: By how much it is above another way, on the seeds that both have; None if there is none to compare with.
    """

    name: str
    runs: Runs
    macro_f1: Estimate
    gain: Estimate | None = None


def runs_of(rows: Sequence[Row], **wanted: Any) -> dict[int, Row]:
    """Return the rows that have these values, by seed."""
    return {row["seed"]: row for row in rows if _has(row, wanted)}


class Truth(Answered):
    """The true labels of a set of test texts, and all answers to them."""

    def figures(self, *cells: Runs) -> list[Figure]:
        """Return macro-F1 of several cells on the seeds that all have, paired."""
        seeds = sorted(set.intersection(*(set(cell) for cell in cells)))
        return [self.figure([cell[seed]["predicted"] for seed in seeds]) for cell in cells]

    def reached(self, name: str, runs: Runs, other: Runs | None = None) -> Reached:
        """Return what a cell reaches, and its gain over another."""
        (own,) = self.figures(runs)
        gain = None
        if other and set(runs) & set(other):
            first, second = self.figures(runs, other)
            gain = (first - second).estimate()
        return Reached(name, runs, own.estimate(), gain)

    def confusion(self, runs: Runs) -> list[list[int]]:
        """Return texts by true and given label, summed over seeds."""
        given = [digits(row["predicted"]) for row in runs.values()]
        counts = np.sum([confusion_matrix(self.truth, each, num_labels=self.num_labels) for each in given], axis=0)
        return [list(map(int, row)) for row in counts]


def truth_of(result: Result, name: str) -> Truth:
    """Return the true labels of a domain, of a task, or of the Chinese reviews, with the answers to them."""
    wanted = {"kind": "language"} if name == CHINESE else {"task": name} if name in CROSS_TASKS else {"target": name}
    own = [row for row in result["rows"] if "predicted" in row and _has(row, wanted)]
    return Truth(result["test_labels"][name], tuple(row["predicted"] for row in own))


def _has(row: Row, wanted: Mapping[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in wanted.items())


def matrix_of(result: Result) -> dict[tuple[str, str], Reached]:
    """Return by source and target what 200 labels of the target give, and the gain over those labels alone."""
    cells = {}
    for target in DOMAINS:
        alone = runs_of(result["rows"], kind="few", source=target, target=target)
        for source in DOMAINS:
            if runs := runs_of(result["rows"], kind="few", source=source, target=target):
                reached = truth_of(result, target).reached(source, runs, None if source == target else alone)
                cells[source, target] = reached
    return cells


def transfer_figures(result: Result) -> dict[str, float]:
    """Return the figures of which all that is needed is there."""
    figures: dict[str, float] = {}
    if found := features_of(result):
        figures |= {name: found[name].value for name in ("features_gap", "features_time_share", "features_warm_s")}
    gains = [cell.gain for cell in matrix_of(result).values() if cell.gain is not None]
    if gains:
        figures |= {"small_label_wins": sum(gain.low > 0 for gain in gains), "small_label_cells": len(gains)}
    if trials := choices_of(result["rows"]):
        figures["choices_within"] = float(np.mean([trial["within"] for trial in trials]))
        figures["choices_rank_correlation"] = float(np.mean([trial["rank_correlation"] for trial in trials]))
        figures["choices_trials"] = len(trials)
    if kept := unlabelled_of(result):
        figures["unlabelled_retention"] = min(one.retention.value for one in kept)
        figures["unlabelled_domains_kept"] = sum(one.retention.low >= KEPT for one in kept)
    return figures


def features_of(result: Result) -> dict[str, Estimate]:
    """Return frozen features against fine-tuning on movies, seed by seed; nothing if no seed has both."""
    tuned = runs_of(result["rows"], kind="whole", source="movies", target="movies")
    found = runs_of(result["rows"], kind="features")
    seeds = sorted(set(tuned) & set(found))
    if not seeds:
        return {}
    first, second = truth_of(result, "movies").figures(tuned, found)
    return {
        "features_gap": (first - second).estimate(),
        "features_time_share": mean_estimate([found[seed]["cold_s"] / found[seed]["fine_tuning_s"] for seed in seeds]),
        **{f"features_{name}": mean_estimate([found[seed][name] for seed in seeds]) for name in ("cold_s", "warm_s")},
        "fine_tuning_s": mean_estimate([found[seed]["fine_tuning_s"] for seed in seeds]),
        "tuned_macro_f1": first.estimate(),
        "macro_f1": second.estimate(),
    }


@dataclass(frozen=True)
class Unlabelled:
    """What a student of a domain reaches without a label of it.

    Attributes:
        target: The domain.
        macro_f1: Of the student.
        retention: Its share of the domain's own teacher's.
        mean: Mean of the other domains' teachers there; the way to the own teacher begins there.
        best: The best of them, which nobody without labels could know.
        closed: Shares of the way from `mean` and from `best` to the own teacher; None if there is no gap.
    """

    target: str
    macro_f1: Estimate
    retention: Estimate
    mean: float | None
    best: float | None
    closed: tuple[float | None, float | None]


def unlabelled_of(result: Result) -> list[Unlabelled]:
    """Return for each domain what a student without its labels keeps of the domain's own teacher, paired by seed."""
    found = []
    for target in DOMAINS:
        students = runs_of(result["rows"], kind="unlabelled", target=target)
        own = runs_of(result["rows"], kind="whole", source=target, target=target)
        if not set(students) & set(own):
            continue
        student, teacher = truth_of(result, target).figures(students, own)
        others = [runs_of(result["rows"], kind="whole", source=each, target=target) for each in DOMAINS if each != target]
        means = [float(np.mean([runs[seed]["macro_f1"] for seed in students if seed in runs])) for runs in others if runs]
        mean, best = (float(np.mean(means)), max(means)) if len(means) == len(others) else (None, None)
        closed = tuple(_closed(student.value, teacher.value, start) for start in (mean, best))
        found.append(Unlabelled(target, student.estimate(), (student / teacher).estimate(), mean, best, (closed[0], closed[1])))
    return found


def _closed(student: float, teacher: float, start: float | None) -> float | None:
    return None if start is None or teacher <= start else (student - start) / (teacher - start)


def choices_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each task whether the recommended candidate was right, by the means over seeds of both scores."""
    from scipy.stats import spearmanr

    trials = []
    for task in TASKS:
        runs = [row["candidates"] for row in runs_of(rows, kind="choice", task=task).values()]
        if not runs:
            continue
        names = [one["candidate"] for one in runs[0]]
        real, promised = (
            np.mean([[one[key] for one in run] for run in runs], axis=0) for key in ("macro_f1", "expected_macro_f1")
        )
        trials.append(
            {
                "task": task,
                "recommended": names[int(promised.argmax())],
                "best": names[int(real.argmax())],
                "within": bool(real[promised.argmax()] >= real.max() - NEAR),
                "rank_correlation": float(spearmanr(promised, real).statistic),
            }
        )
    return trials


def curve_of(result: Result) -> list[dict[str, Any]]:
    """Return the points of the learning curve, by way and origin, the fewest labels first."""
    source, target = CURVE_PAIR
    ways = [(way, origin) for way in ("parameters", "features") for origin in (source, target)]
    points = []
    for way, origin in [*ways, ("tfidf", "tfidf")]:
        for shots in CURVE_SHOTS:
            if way == "tfidf":
                wanted: dict[str, Any] = {"kind": "floor", "shots": shots}
            elif way == "parameters" and shots == LABELS_A_CLASS:
                wanted = {"kind": "few"}
            else:
                wanted = {"kind": "curve", "way": way, "shots": shots}
            if runs := runs_of(result["rows"], source=origin, target=target, **wanted):
                found = truth_of(result, target).reached(origin, runs).macro_f1
                points.append({"way": way, "source": origin, "num_labels": 2 * shots, "macro_f1": found})
    return points


def tasks_of(result: Result, task: str) -> list[Reached]:
    """Return what each origin reaches on another task, and its gain over the encoder alone."""
    runs = {origin: runs_of(result["rows"], kind="task", task=task, origin=origin) for origin in CROSS_TASKS[task]}
    return _compared(result, task, runs, against="minilm")


def language_of(result: Result) -> list[Reached]:
    """Return what each way into another language reaches, and its gain over training from scratch."""
    runs = {origin: runs_of(result["rows"], kind="language", origin=origin) for origin in LANGUAGE_ORIGINS}
    return _compared(result, CHINESE, runs, against=FROM_SCRATCH)


def _compared(result: Result, name: str, runs: Mapping[str, Runs], *, against: str) -> list[Reached]:
    return [
        truth_of(result, name).reached(origin, own, None if origin == against else runs[against])
        for origin, own in runs.items()
        if own
    ]


def chosen_recipe(rows: Sequence[Row]) -> str | None:
    """Return the recipe that was best on the stand-in; None before all were tried there."""
    tried = {row["recipe"]: row["macro_f1"] for row in rows if row["kind"] == "stand_in"}
    return max(UNLABELLED_RECIPES, key=tried.__getitem__) if tried.keys() >= set(UNLABELLED_RECIPES) else None
