"""What the `transfer` scenario's rows say beside the matrix: the learning curve, other tasks, confusions, the gap closed.

Pure functions over rows; intervals are over seeds and texts, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.transfer.figures import (
    CROSS_TASKS,
    CURVE_PAIR,
    CURVE_SHOTS,
    DOMAINS,
    FROM_SCRATCH,
    LABELS_A_CLASS,
    LANGUAGE_ORIGINS,
    digits,
    unlabelled_of,
)
from distill.evaluation.intervals import Bootstrap, Figure
from distill.evaluation.metrics import confusion_matrix

Row = Mapping[str, Any]


def curve_of(rows: Sequence[Row], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the points of the learning curve, by way and origin, the fewest labels first.

    Args:
        rows: All rows; with `LABELS_A_CLASS` those of kind `few` are the fine-tuned ones.
        labels: True test labels of each domain, a digit a text.
    """
    source, target = CURVE_PAIR
    truth = digits(labels[target])
    points = []
    for way, origin in [
        *((way, origin) for way in ("parameters", "features") for origin in (source, target)),
        ("tfidf", "tfidf"),
    ]:
        for shots in CURVE_SHOTS:
            runs = [row for row in rows if _is_point(row, way=way, origin=origin, target=target, shots=shots)]
            if not runs:
                continue
            found = _scored(runs, truth, num_labels=2)
            points.append(
                {
                    "way": way,
                    "source": origin,
                    "num_labels": 2 * shots,
                    "num_seeds": len(runs),
                    "macro_f1": asdict(found.estimate()),
                }
            )
    return points


def tasks_of(rows: Sequence[Row], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return for each other task and origin the macro-F1, the gain over the encoder alone, and the confusions.

    Args:
        rows: All rows.
        labels: True test labels of each task, a digit a text.
    """
    found = []
    for task, origins in CROSS_TASKS.items():
        if task not in labels:
            continue
        truth = digits(labels[task])
        by_origin = _by_origin([row for row in rows if row["kind"] == "task" and row["task"] == task], origins)
        found += [{"task": task, **one} for one in _compared(by_origin, truth, against="minilm")]
    return found


def language_of(rows: Sequence[Row], labels: str) -> list[dict[str, Any]]:
    """Return for each way into another language the macro-F1, the gain over training from scratch, and the confusions.

    Args:
        rows: All rows.
        labels: True labels of the test texts, a digit a text.
    """
    by_origin = _by_origin([row for row in rows if row["kind"] == "language"], LANGUAGE_ORIGINS)
    return _compared(by_origin, digits(labels), against=FROM_SCRATCH)


def _by_origin(rows: Sequence[Row], origins: Sequence[str]) -> dict[str, dict[int, Row]]:
    """The runs of each origin, by seed."""
    return {origin: {row["seed"]: row for row in rows if row["origin"] == origin} for origin in origins}


def _compared(by_origin: Mapping[str, Mapping[int, Row]], truth: NDArray[np.int64], *, against: str) -> list[dict[str, Any]]:
    """What each origin reaches and, on the seeds that both have, by how much more than the one called `against`."""
    found = []
    for origin, runs in by_origin.items():
        if not runs:
            continue
        names = next(iter(runs.values()))["labels"]
        given = np.stack([digits(row["predicted"]) for row in runs.values()])
        one: dict[str, Any] = {
            "origin": origin,
            "num_seeds": len(runs),
            "macro_f1": asdict(_scored(list(runs.values()), truth, num_labels=len(names)).estimate()),
            "labels": names,
            "confusion": np.sum([confusion_matrix(truth, run, num_labels=len(names)) for run in given], axis=0).tolist(),
        }
        both = [seed for seed in runs if seed in by_origin[against]]
        if both and origin != against:
            bootstrap = Bootstrap(truth, num_labels=len(names), num_seeds=len(both))
            pair = [np.stack([digits(each[seed]["predicted"]) for seed in both]) for each in (runs, by_origin[against])]
            one["gain"] = asdict((bootstrap.macro_f1(pair[0]) - bootstrap.macro_f1(pair[1])).estimate())
        found.append(one)
    return found


def gap_closed_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each domain without labels how much of the way to its own teacher the student went.

    The way begins where the three other teachers stand as they are, with no labelling of the domain's texts: at their mean,
    and at the best of them, which nobody without labels could know. `gap_closed` is 0 there and 1 at the domain's own teacher;
    None where there is no gap.
    """
    found = []
    for one in unlabelled_of(rows):
        target = one["target"]
        seeds = {row["seed"] for row in rows if row["kind"] == "unlabelled" and row["target"] == target}
        others = [
            [
                row["macro_f1"]
                for row in rows
                if row["kind"] == "whole" and (row["source"], row["target"]) == (source, target) and row["seed"] in seeds
            ]
            for source in DOMAINS
            if source != target
        ]
        if not all(others):
            continue
        means = [float(np.mean(scores)) for scores in others]
        starts = {"of_mean": float(np.mean(means)), "of_best": max(means)}
        closed = {f"gap_closed_{name}": _share(one, start) for name, start in starts.items()}
        found.append({**one, "teachers_mean": starts["of_mean"], "teachers_best": starts["of_best"], **closed})
    return found


def _share(one: Mapping[str, Any], start: float) -> float | None:
    gap = float(one["own_teacher_macro_f1"]) - start
    return (float(one["macro_f1"]) - start) / gap if gap > 0 else None


def _is_point(row: Row, *, way: str, origin: str, target: str, shots: int) -> bool:
    if row.get("target") != target or row.get("source") != origin:
        return False
    if way == "tfidf":
        return bool(row["kind"] == "floor" and row.get("shots") == shots)
    if way == "parameters" and shots == LABELS_A_CLASS:
        return bool(row["kind"] == "few")
    return bool(row["kind"] == "curve" and row["way"] == way and row["shots"] == shots)


def _scored(runs: Sequence[Row], truth: NDArray[np.int64], *, num_labels: int) -> Figure:
    given = np.stack([digits(row["predicted"]) for row in runs])
    return Bootstrap(truth, num_labels=num_labels, num_seeds=len(runs)).macro_f1(given)
