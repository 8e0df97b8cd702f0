"""The figures of the `transfer` scenario, from its rows alone: the matrix, its intervals, what is still missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.evaluation.intervals import Bootstrap, Figure
from distill.evaluation.proof import verdict_in_words

COMMAND: Final = "python -m benchmarks transfer"
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
Row = Mapping[str, Any]


def matrix_of(rows: Sequence[Row], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a cell for each source and target: what 200 labels give with and without the source, with intervals.

    Args:
        rows: All rows.
        labels: True test labels of each domain, a digit a text.

    Returns:
        One dictionary a cell whose runs are there; `gain` is over the same target's 200 labels alone, on the same seeds.
    """
    found = {(row["kind"], row["source"], row["target"], row["seed"]): row for row in rows if row["kind"] in ("few", "whole")}
    cells = []
    for source in DOMAINS:
        for target in DOMAINS:
            seeds = [
                seed for seed in SEEDS if ("few", source, target, seed) in found and ("few", target, target, seed) in found
            ]
            if not seeds:
                continue
            bootstrap = Bootstrap(digits(labels[target]), num_labels=2, num_seeds=len(seeds))

            def score(kind: str, origin: str, wanted: Sequence[int] = seeds, target: str = target) -> Figure:
                answers = [digits(found[kind, origin, target, seed]["predicted"]) for seed in wanted]
                return bootstrap.macro_f1(np.stack(answers))  # noqa: B023  (called at once)

            with_source, alone = score("few", source), score("few", target)
            cell: dict[str, Any] = {
                "source": source,
                "target": target,
                "num_seeds": len(seeds),
                "macro_f1": asdict(with_source.estimate()),
            }
            if all(("whole", source, target, seed) in found for seed in seeds):
                cell["zero_shot"] = asdict(score("whole", source).estimate())
            if source != target:
                gain = (with_source - alone).estimate()
                cell["gain"] = asdict(gain)
                cell["wins"] = gain.value > 0
                cell["words"] = verdict_in_words(
                    gain, subject=f"transfer from {source}", against="the target's labels alone", num_seeds=len(seeds)
                )
            cells.append(cell)
    return cells


def transfer_figures(rows: Sequence[Row], matrix: Sequence[Row]) -> dict[str, float]:
    """Return the figures of which all that is needed is there.

    Args:
        rows: All rows.
        matrix: As `matrix_of` returns it.
    """
    figures: dict[str, float] = {}
    whole = {(row["source"], row["target"], row["seed"]): row for row in rows if row["kind"] == "whole"}
    features = [row for row in rows if row["kind"] == "features" and ("movies", "movies", row["seed"]) in whole]
    if features:
        tuned = [whole["movies", "movies", row["seed"]]["macro_f1"] for row in features]
        figures["features_gap"] = float(np.mean(tuned) - np.mean([row["macro_f1"] for row in features]))
        shares = [row["cold_s"] / row["fine_tuning_s"] for row in features]
        figures["features_time_share"] = float(np.median(shares))
        figures["features_warm_s"] = float(np.median([row["warm_s"] for row in features]))
    beside = [cell for cell in matrix if "gain" in cell]
    if beside:
        figures["small_label_wins"] = sum(cell["wins"] for cell in beside)
        figures["small_label_cells"] = len(beside)
    trials = choices_of(rows)
    if trials:
        figures["choices_within"] = float(np.mean([trial["within"] for trial in trials]))
        figures["choices_rank_correlation"] = float(np.mean([trial["rank_correlation"] for trial in trials]))
        figures["choices_trials"] = len(trials)
    kept = unlabelled_of(rows)
    if kept:
        # What at least two of the three domains keep: the second best.
        figures["unlabelled_retention"] = sorted((one["retention"] for one in kept), reverse=True)[:2][-1]
        figures["unlabelled_domains_kept"] = sum(one["retention"] >= KEPT for one in kept)
    return figures


def choices_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each task whether the recommended candidate was right, the means over seeds of both scores."""
    trials = []
    for task in TASKS:
        runs = [row["candidates"] for row in rows if row["kind"] == "choice" and row["task"] == task]
        if not runs:
            continue
        names = [one["candidate"] for one in runs[0]]

        def means(key: str, runs: Sequence[Any] = runs) -> NDArray[np.float64]:
            scores: NDArray[np.float64] = np.mean([[one[key] for one in run] for run in runs], axis=0)
            return scores

        real, promised = means("macro_f1"), means("expected_macro_f1")
        trials.append(
            {
                "task": task,
                "num_seeds": len(runs),
                "recommended": names[int(promised.argmax())],
                "best": names[int(real.argmax())],
                "within": bool(real[promised.argmax()] >= real.max() - NEAR),
                "rank_correlation": _rank_correlation(promised, real),
                "rank_correlation_log_maximum_evidence": _rank_correlation(means("log_maximum_evidence"), real),
                "rank_correlation_h_score": _rank_correlation(means("h_score"), real),
                "candidates": {
                    name: {"expected": float(expected), "macro_f1": float(score)}
                    for name, expected, score in zip(names, promised, real, strict=True)
                },
            }
        )
    return trials


def unlabelled_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each domain what a student without its labels keeps of the domain's own teacher, over the same seeds."""
    found = []
    for target in DOMAINS:
        students = {row["seed"]: row["macro_f1"] for row in rows if row["kind"] == "unlabelled" and row["target"] == target}
        own = {
            row["seed"]: row["macro_f1"]
            for row in rows
            if row["kind"] == "whole" and row["source"] == row["target"] == target and row["seed"] in students
        }
        if not own:
            continue
        student, teacher = (float(np.mean([scores[seed] for seed in own])) for scores in (students, own))
        found.append(
            {
                "target": target,
                "num_seeds": len(own),
                "macro_f1": student,
                "own_teacher_macro_f1": teacher,
                "retention": student / teacher,
            }
        )
    return found


def chosen_recipe(rows: Sequence[Row]) -> str | None:
    """Return the recipe that was best on the stand-in; None before all were tried there."""
    tried = {row["recipe"]: row["macro_f1"] for row in rows if row["kind"] == "stand_in"}
    return max(UNLABELLED_RECIPES, key=tried.__getitem__) if tried.keys() >= set(UNLABELLED_RECIPES) else None


def missing_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of the cells that are not there; a student of another recipe than the chosen one is not."""
    chosen = chosen_recipe(rows)
    there = {row["name"] for row in rows if row["kind"] != "unlabelled" or chosen in (None, row.get("recipe"))}
    wanted = [
        f"{kind}-{source}-{target}-{seed}"
        for seed in SEEDS
        for kind in ("whole", "few")
        for source in DOMAINS
        for target in DOMAINS
    ]
    wanted += [f"scratch-random-{target}-{SEEDS[0]}" for target in DOMAINS]
    wanted += [f"features-{seed}" for seed in SEEDS]
    wanted += [f"unlabelled-{target}-{seed}" for target in DOMAINS[1:] for seed in SEEDS]
    wanted += [f"stand-in-{recipe}-{SEEDS[0]}" for recipe in UNLABELLED_RECIPES]
    wanted += [f"choice-{task}-{seed}" for task in TASKS for seed in SEEDS]
    wanted += [f"floor-{name}-{target}-all" for name in ("tfidf", "majority") for target in DOMAINS]
    wanted += [f"floor-tfidf-{target}-{LABELS_A_CLASS}-{seed}" for target in DOMAINS for seed in SEEDS]
    wanted += [f"task-{task}-{origin}-{seed}" for task, origins in CROSS_TASKS.items() for origin in origins for seed in SEEDS]
    wanted += [f"language-{origin}-{seed}" for origin in LANGUAGE_ORIGINS for seed in SEEDS]
    source, target = CURVE_PAIR
    for shots in CURVE_SHOTS:
        wanted += [f"floor-tfidf-{target}-{shots}-{seed}" for seed in SEEDS if shots != LABELS_A_CLASS]
        for way in ("features",) if shots == LABELS_A_CLASS else ("parameters", "features"):
            wanted += [f"curve-{way}-{origin}-{target}-{shots}-{seed}" for origin in (source, target) for seed in SEEDS]
    return [name for name in wanted if name not in there]


def _rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def digits(answers: str) -> NDArray[np.int64]:
    """Return class ids that were written a digit a text, shape (texts,)."""
    return np.array(list(answers), dtype=np.int64)
