"""What the rows of the `transfer` scenario say, computed from them and the true labels: figures and intervals.

Every comparison is paired by seed and test text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any, Final

import numpy as np

from benchmarks.harness.answers import Answered, digits
from benchmarks.harness.scenario import Result, Row
from benchmarks.transfer.recipes import UNLABELLED
from distill.evaluation.intervals import Estimate, Figure, mean_estimate
from distill.evaluation.metrics import confusion_matrix

DOMAINS: Final = ("movies", "amazon", "tweets", "nyt")
SEEDS: Final = (0, 1, 2)
LABELS_A_CLASS: Final = 100
CURVE_PAIR: Final = ("movies", "amazon")
"""Source and target of the learning curve."""

CURVE_SHOTS: Final = (8, 25, LABELS_A_CLASS, 400)
"""Labels a class of its points."""

CURVE_LINES: Final = {
    ("parameters", "movies"): "the teacher of movies, fine-tuned",
    ("parameters", "amazon"): "the encoder alone, fine-tuned",
    ("features", "movies"): "the teacher of movies, as features",
    ("features", "amazon"): "the encoder alone, as features",
    ("tfidf", "tfidf"): "TF-IDF",
}
"""Way and origin of its lines, and what the page calls them."""

CURVE_KINDS: Final[Mapping[str, Row]] = {
    "curve": {},
    "few": {"way": "parameters", "shots": LABELS_A_CLASS},
    "floor": {"way": "tfidf"},
}
"""Kinds of rows that are points of it, and what such a row does not say."""

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

WAYS: Final = {**CROSS_TASKS, CHINESE: LANGUAGE_ORIGINS}
TASKS: Final = (*DOMAINS, "domains")
CANDIDATES: Final = ("minilm", "lowest_3_layers", "random", "after_a_task")
NEAR: Final = 0.01
"""A recommended candidate counts as right within so much macro-F1 of the best."""

KEPT: Final = 0.95
STAND_IN: Final = "movies"
"""The domain on which the recipe of the students without labels is chosen; none of those is of it."""

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
        gain = None
        if other and set(runs) & set(other):
            first, second = self.figures(runs, other)
            gain = (first - second).estimate()
        return Reached(name, runs, self.figures(runs)[0].estimate(), gain)

    def confusion(self, runs: Runs) -> list[list[int]]:
        """Return texts by true and given label, summed over seeds."""
        given = digits("".join(row["predicted"] for row in runs.values()))
        return list(confusion_matrix(np.tile(self.truth, len(runs)), given, num_labels=self.num_labels).tolist())


def truth_of(result: Result, name: str) -> Truth:
    """Return the true labels of a domain, of a task, or of the Chinese reviews, with the answers to them."""
    own = [row for row in result["rows"] if "predicted" in row and _has(row, _of_set(name))]
    return Truth(result["test_labels"][name], tuple(row["predicted"] for row in own))


def _of_set(name: str) -> dict[str, str]:
    """Return what the rows of a set of test texts have in common."""
    return {"kind": "language"} if name == CHINESE else {"task": name} if name in CROSS_TASKS else {"target": name}


def _has(row: Row, wanted: Mapping[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in wanted.items())


def matrix_of(result: Result) -> dict[tuple[str, str], Reached]:
    """Return by source and target what 200 labels of the target give, and the gain over those labels alone."""
    return {
        (found.name, target): found
        for target in DOMAINS
        for found in _compared(result, target, "source", DOMAINS, against=target, kind="few")
    }


def transfer_figures(result: Result) -> dict[str, float]:
    """Return the figures of which all that is needed is there."""
    trials, kept = choices_of(result["rows"]), unlabelled_of(result).values()
    gains = [cell.gain for cell in matrix_of(result).values() if cell.gain is not None]
    shown = ("features_gap", "features_time_share", "features_warm_s")
    figures: dict[str, float] = {name: found.value for name, found in features_of(result).items() if name in shown}
    if gains:
        figures |= {"small_label_wins": sum(gain.low > 0 for gain in gains), "small_label_cells": len(gains)}
    if trials:
        figures |= {f"choices_{name}": fmean(trial[name] for trial in trials) for name in ("within", "rank_correlation")}
        figures["choices_trials"] = len(trials)
    if kept:
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
        macro_f1: Of the student.
        retention: Its share of the domain's own teacher's.
        starts: The mean of the other domains' teachers there, and the best, which nobody without labels could know.
        closed: Shares of the way from each of `starts` to the own teacher; None if there is no gap.
    """

    macro_f1: Estimate
    retention: Estimate
    starts: tuple[float, float]
    closed: tuple[float | None, ...]


def unlabelled_of(result: Result) -> dict[str, Unlabelled]:
    """Return by domain what a student without its labels keeps of the domain's own teacher, paired by seed."""
    found = {}
    for target in DOMAINS:
        students = runs_of(result["rows"], kind="unlabelled", target=target)
        teachers = {source: runs_of(result["rows"], kind="whole", source=source, target=target) for source in DOMAINS}
        if not (set(students) & set(teachers[target]) and all(teachers.values())):
            continue
        student, own = truth_of(result, target).figures(students, teachers.pop(target))
        means = [fmean(row["macro_f1"] for row in runs.values()) for runs in teachers.values()]
        starts = (fmean(means), max(means))
        closed = tuple((student.value - start) / (own.value - start) if own.value > start else None for start in starts)
        found[target] = Unlabelled(student.estimate(), (student / own).estimate(), starts, closed)
    return found


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


def curve_of(result: Result) -> dict[tuple[str, str], dict[int, Estimate]]:
    """Return macro-F1 by line of the learning curve, which is a way and an origin, and by number of labels."""
    target = CURVE_PAIR[1]
    rows = [{**CURVE_KINDS[row["kind"]], **row} for row in result["rows"] if row["kind"] in CURVE_KINDS]
    curve: dict[tuple[str, str], dict[int, Estimate]] = {}
    for (way, origin), shots in product(CURVE_LINES, CURVE_SHOTS):
        if runs := runs_of(rows, way=way, source=origin, target=target, shots=shots):
            curve.setdefault((way, origin), {})[2 * shots] = truth_of(result, target).reached(origin, runs).macro_f1
    return curve


def ways_of(result: Result, name: str) -> list[Reached]:
    """Return what each way into another task reaches and its gain over the encoder alone; in Chinese, over random weights."""
    return _compared(result, name, "origin", WAYS[name], against=FROM_SCRATCH if name == CHINESE else "minilm")


def _compared(result: Result, name: str, key: str, ways: Sequence[str], *, against: str, **wanted: str) -> list[Reached]:
    """Return what the rows of each way that there is reach on a set of texts, and their gain over one of the ways."""
    runs = {way: runs_of(result["rows"], **{**_of_set(name), **wanted, key: way}) for way in ways}
    return [
        truth_of(result, name).reached(origin, own, None if origin == against else runs[against])
        for origin, own in runs.items()
        if own
    ]


def chosen_recipe(rows: Sequence[Row]) -> str | None:
    """Return the recipe that was best on the stand-in; None before all were tried there."""
    tried = {row["recipe"]: row["macro_f1"] for row in rows if row["kind"] == "stand_in"}
    return max(UNLABELLED, key=tried.__getitem__) if tried.keys() >= UNLABELLED.keys() else None
