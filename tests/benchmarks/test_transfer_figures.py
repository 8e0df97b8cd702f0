"""Figures of the transfer scenario, from rows written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.scenario import Row
from benchmarks.scenarios.transfer import missing_of
from benchmarks.transfer.bench import Bench
from benchmarks.transfer.figures import (
    DOMAINS,
    SEEDS,
    STAND_IN,
    choices_of,
    chosen_recipe,
    matrix_of,
    transfer_figures,
    unlabelled_of,
)
from benchmarks.transfer.page import transfer_table
from benchmarks.transfer.recipes import UNLABELLED
from distill.progress import SilentReporter

TRUE = "01" * 20
LABELS = dict.fromkeys((*DOMAINS, "tweets-three-way", "chinese"), TRUE)
GOOD = TRUE
BAD = "10" * 4 + TRUE[8:]  # 8 of 40 wrong, as many of each label: macro-F1 0.8
ALMOST = "10" + TRUE[2:]  # 0.95
WORSE = "10" * 10 + TRUE[20:]  # 0.5


def cell(kind: str, source: str, target: str, seed: int, predicted: str) -> dict[str, Any]:
    score = 1.0 if predicted == GOOD else 0.8
    return {
        "name": f"{kind}-{source}-{target}-{seed}",
        "kind": kind,
        "source": source,
        "target": target,
        "seed": seed,
        "predicted": predicted,
        "macro_f1": score,
    }


def bench_with(folder: Path, rows: list[dict[str, Any]]) -> Bench:
    bench = Bench(folder, SilentReporter())
    for row in rows:
        bench.pieces.put(row["name"], row)
    return bench


def result(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"rows": rows, "test_labels": LABELS, "missing": [], **more}


def test_a_gain_counts_if_its_paired_interval_is_above_zero() -> None:
    rows = [cell("few", source, "nyt", seed, GOOD if source == "amazon" else BAD) for source in DOMAINS for seed in SEEDS]
    rows += [cell("few", "tweets", "nyt", 1, GOOD)]  # its last run of seed 1: better in one of three
    matrix = matrix_of(result(rows))
    assert set(matrix) == {(source, "nyt") for source in DOMAINS}  # the other targets have no run
    alone, won, drawn, once = (matrix[source, "nyt"] for source in ("nyt", "amazon", "movies", "tweets"))
    assert alone.macro_f1.value == pytest.approx(0.8)
    assert alone.gain is None
    assert won.gain is not None
    assert won.gain.value == pytest.approx(0.2)
    assert won.gain.low > 0
    assert drawn.gain is not None
    assert (drawn.gain.value, drawn.gain.low) == (0, 0)  # as good is not better
    assert once.gain is not None
    assert once.gain.value == pytest.approx(0.2 / 3)
    assert once.gain.low < 0  # a positive mean of three seeds, which one seed makes, is no win
    figures = transfer_figures(result(rows))
    assert (figures["small_label_wins"], figures["small_label_cells"]) == (1, 3)
    page = transfer_table(result(rows))
    assert "1 of 3 gains are above 0 beyond their interval." in page
    assert "Not shown to help: nyt from movies, nyt from tweets." in page


def test_only_seeds_that_both_have_are_compared() -> None:
    rows = [cell("few", "nyt", "nyt", seed, BAD) for seed in SEEDS] + [cell("few", "movies", "nyt", 1, GOOD)]
    found = matrix_of(result(rows))
    assert found["movies", "nyt"].gain is not None
    assert found["movies", "nyt"].gain.value == pytest.approx(0.2)
    assert len(found["nyt", "nyt"].runs) == 3


def choice(task: str, scores: dict[str, tuple[float, float]]) -> dict[str, Any]:
    candidates = [
        {"candidate": name, "expected_macro_f1": expected, "macro_f1": real, "log_maximum_evidence": expected, "h_score": -real}
        for name, (expected, real) in scores.items()
    ]
    return {"name": f"choice-{task}-0", "kind": "choice", "task": task, "seed": 0, "candidates": candidates}


def test_a_choice_is_right_within_a_hundredth_of_the_best() -> None:
    near = choice("movies", {"a": (0.8, 0.845), "b": (0.7, 0.85), "c": (0.6, 0.5)})
    far = choice("nyt", {"a": (0.8, 0.83), "b": (0.7, 0.85), "c": (0.6, 0.5)})
    trials = choices_of([near, far])
    assert [trial["within"] for trial in trials] == [True, False]
    assert [trial["best"] for trial in trials] == ["b", "b"]
    # ranks 3 2 1 and 2 3 1: 1 - 6 * (1 + 1 + 0) / (3 * 8) = 0.5
    assert trials[0]["rank_correlation"] == pytest.approx(0.5)
    figures = transfer_figures(result([near, far]))
    assert figures["choices_within"] == 0.5
    assert figures["choices_rank_correlation"] == pytest.approx(0.5)


def test_the_worst_domain_counts() -> None:
    rows: list[dict[str, Any]] = []
    for target, student in (("amazon", BAD), ("tweets", GOOD), ("nyt", WORSE)):
        rows += [cell("whole", source, target, seed, GOOD) for source in DOMAINS for seed in SEEDS]
        rows += [cell("unlabelled", "the other three", target, seed, student) for seed in SEEDS]
    found = unlabelled_of(result(rows))
    assert [found[name].retention.value for name in ("amazon", "tweets", "nyt")] == pytest.approx([0.8, 1.0, 0.5])
    figures = transfer_figures(result(rows))
    assert figures["unlabelled_retention"] == pytest.approx(0.5)
    assert figures["unlabelled_domains_kept"] == 1


def with_features(seconds: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [cell("whole", "movies", "movies", seed, GOOD) for seed in (0, 1)]
    rows += [
        cell("features", "", "movies", seed, predicted) | {"cold_s": seconds, "warm_s": 2.0, "fine_tuning_s": 160.0}
        for seed, predicted in ((0, ALMOST), (1, BAD), (2, WORSE))
    ]
    return rows


def test_features_are_compared_with_whole_fine_tuning_of_the_same_seeds() -> None:
    figures = transfer_figures(result(with_features(16.0)))
    assert figures["features_gap"] == pytest.approx((0.05 + 0.2) / 2)  # the third has no teacher to be compared with
    assert figures["features_time_share"] == pytest.approx(0.1)
    assert figures["features_warm_s"] == 2.0


def test_the_page_says_what_features_cost_beside_fine_tuning() -> None:
    page = transfer_table(result(with_features(20.0)))
    assert "| fine-tuned whole | 1.000 | 160 |  |" in page
    assert "| a head on frozen features | 0.875, -0.125 (" in page
    assert "| 20.0 | 12.5% |" in page  # 20 of 160 s
    assert "| the same again, features from the cache | the same | 2.0 | 1.2% |" in page


def test_the_page_names_what_is_missing(tmp_path: Path) -> None:
    rows = [cell("few", source, "nyt", 0, GOOD if source == "amazon" else BAD) for source in DOMAINS]
    missing = missing_of(bench_with(tmp_path, rows))
    assert "few-amazon-nyt-0" not in missing
    assert "few-amazon-nyt-1" in missing
    whole_and_few, scratch, features, unlabelled, choice = 2 * 16 * 3, 4, 3, 9 + len(UNLABELLED), 15
    floors, curve, tasks, language = 2 * 4 + 4 * 3, 3 * 3 + 7 * 2 * 3, (8 + 5) * 3, 8 * 3
    assert len(missing) == whole_and_few + scratch + features + unlabelled + choice + floors + curve + tasks + language - 4
    assert len(set(missing)) == len(missing)
    page = transfer_table(result(rows, missing=missing))
    assert "| the encoder alone |  |  |  | 0.800 (" in page
    assert "1.000 (1.000-1.000), +0.200 (" in page
    assert f"Unfinished, missing cells: {len(missing)};" in page


def stand_in(recipe: str, score: float) -> dict[str, Any]:
    interval = [score - 0.01, score + 0.01]
    row = {"name": f"stand-in-{recipe}-0", "kind": "stand_in", "recipe": recipe, "target": STAND_IN, "seed": 0}
    return {**row, "macro_f1": score, "macro_f1_interval": interval, "num_texts": 6066}


def student(target: str, recipe: str) -> dict[str, Any]:
    row = {"kind": "unlabelled", "source": "the other three", "target": target, "seed": 0, "recipe": recipe}
    return {"name": f"unlabelled-{target}-0", **row}


def test_the_best_recipe_on_the_stand_in_is_chosen_and_students_of_another_are_made_again(tmp_path: Path) -> None:
    first, second = UNLABELLED
    half = [stand_in(first, 0.71), student("amazon", first), student("nyt", second)]
    assert chosen_recipe(half) is None
    bench = bench_with(tmp_path, half)
    assert not {"unlabelled-amazon-0", "unlabelled-nyt-0"} & set(missing_of(bench))  # nothing is chosen yet
    whole = [stand_in(second, 0.73), *half]
    assert chosen_recipe(whole) == second
    bench = bench_with(tmp_path, whole)
    assert {"unlabelled-amazon-0", "unlabelled-nyt-0"} & set(missing_of(bench)) == {"unlabelled-amazon-0"}


def test_a_finished_cell_is_not_made_again_unless_its_row_says_something_else(tmp_path: Path) -> None:
    bench, made = Bench(tmp_path, SilentReporter()), []

    def make(bench: Bench, row: Row) -> dict[str, Any]:
        made.append(row["recipe"])
        return {"score": 1}

    for recipe in ("one", "one", "another"):
        bench.make({"name": "a", "recipe": recipe, "labels": ["x", "y"]}, make)
    assert made == ["one", "another"]
    assert bench.pieces.all() == [{"name": "a", "recipe": "another", "labels": ["x", "y"], "score": 1}]


def test_the_page_shows_what_was_tried_on_the_stand_in_and_the_best_in_bold() -> None:
    lines = transfer_table(result([stand_in("one_way", 0.71), stand_in("another", 0.73)])).splitlines()
    start = lines.index("| movies with its labels hidden, one seed | on 6,066 texts of it |")
    assert lines[start + 1 : start + 4] == [
        "|---|--:|",
        "| one way | 0.710 (0.700-0.720) |",
        "| another | **0.730 (0.720-0.740)** |",
    ]
