"""Figures of the transfer scenario, from rows written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.transfer.bench import Bench
from benchmarks.transfer.figures import (
    DOMAINS,
    SEEDS,
    STAND_IN,
    UNLABELLED_RECIPES,
    choices_of,
    chosen_recipe,
    matrix_of,
    missing_of,
    transfer_figures,
    unlabelled_of,
)
from benchmarks.transfer.page import markdown_of_transfer, stand_in_in_lines
from benchmarks.transfer.recipes import UNLABELLED
from distill.progress import SilentReporter

TRUE = "01" * 20
LABELS = dict.fromkeys(DOMAINS, TRUE)
GOOD = TRUE
BAD = "10" * 4 + TRUE[8:]  # 8 of 40 wrong, as many of each label: macro-F1 0.8


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


def test_a_source_wins_over_the_same_targets_labels_alone() -> None:
    rows = [cell("few", source, "nyt", seed, GOOD if source == "amazon" else BAD) for source in DOMAINS for seed in SEEDS]
    matrix = {(one["source"], one["target"]): one for one in matrix_of(rows, LABELS)}
    assert set(matrix) == {(source, "nyt") for source in DOMAINS}  # the other targets have no run
    assert matrix["nyt", "nyt"]["macro_f1"]["value"] == pytest.approx(0.8)
    assert "gain" not in matrix["nyt", "nyt"]
    won, drawn = matrix["amazon", "nyt"], matrix["movies", "nyt"]
    assert won["gain"]["value"] == pytest.approx(0.2)
    assert won["wins"]
    assert won["gain"]["low"] > 0
    assert won["words"].startswith("Transfer from amazon helped: +0.2000")
    assert not drawn["wins"]  # as good is not better
    figures = transfer_figures(rows, list(matrix.values()))
    assert (figures["small_label_wins"], figures["small_label_cells"]) == (1, 3)


def test_only_seeds_that_both_have_are_compared() -> None:
    rows = [cell("few", "nyt", "nyt", seed, BAD) for seed in SEEDS] + [cell("few", "movies", "nyt", 1, GOOD)]
    found = {one["source"]: one for one in matrix_of(rows, LABELS)}
    assert found["movies"]["num_seeds"] == 1
    assert found["movies"]["words"].count("One seed") == 1
    assert found["nyt"]["num_seeds"] == 3


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
    assert trials[0]["rank_correlation_h_score"] == pytest.approx(-1)
    figures = transfer_figures([near, far], [])
    assert figures["choices_within"] == 0.5
    assert figures["choices_rank_correlation"] == pytest.approx(0.5)


def test_the_second_best_domain_is_what_two_of_three_keep() -> None:
    rows: list[dict[str, Any]] = []
    for target, score in (("amazon", 0.76), ("tweets", 0.792), ("nyt", 0.6)):
        rows.append({"kind": "whole", "source": target, "target": target, "seed": 0, "macro_f1": 0.8})
        rows.append({"kind": "unlabelled", "target": target, "seed": 0, "macro_f1": score})
    assert [one["retention"] for one in unlabelled_of(rows)] == pytest.approx([0.95, 0.99, 0.75])
    figures = transfer_figures(rows, [])
    assert figures["unlabelled_retention"] == pytest.approx(0.95)


def test_features_are_compared_with_whole_fine_tuning_of_the_same_seeds() -> None:
    rows: list[dict[str, Any]] = [cell("whole", "movies", "movies", seed, GOOD) for seed in (0, 1)]
    rows += [
        {"kind": "features", "seed": seed, "macro_f1": score, "cold_s": 10.0, "warm_s": 2.0, "fine_tuning_s": 100.0}
        for seed, score in ((0, 0.96), (1, 0.94), (2, 0.1))
    ]
    figures = transfer_figures(rows, [])
    assert figures["features_gap"] == pytest.approx(0.05)  # the third has no teacher to be compared with
    assert figures["features_time_share"] == pytest.approx(0.1)


def test_the_page_says_what_features_cost_beside_fine_tuning() -> None:
    rows: list[dict[str, Any]] = [cell("whole", "movies", "movies", seed, GOOD) for seed in (0, 1)]
    rows += [
        {"kind": "features", "seed": seed, "macro_f1": score, "cold_s": 20.0, "warm_s": 2.0, "fine_tuning_s": 160.0}
        for seed, score in ((0, 0.96), (1, 0.92))
    ]
    result = {"rows": rows, "matrix": [], "missing": [], "command": "a command", "figures": transfer_figures(rows, [])}
    page = markdown_of_transfer(result)
    assert "| fine-tuned whole | 1.000 | 160 |  |" in page
    assert "| a head on frozen features | 0.940, -0.060 | 20.0 | 12.5% |" in page  # 20 of 160 s
    assert "| the same again, features from the cache | the same | 2.0 | 1.2% |" in page


def test_the_page_names_what_is_missing() -> None:
    rows = [cell("few", source, "nyt", 0, GOOD if source == "amazon" else BAD) for source in DOMAINS]
    missing = missing_of(rows)
    assert "few-amazon-nyt-0" not in missing
    assert "few-amazon-nyt-1" in missing
    whole_and_few, scratch, features, unlabelled, choice = 2 * 16 * 3, 4, 3, 9 + len(UNLABELLED_RECIPES), 15
    floors, curve, tasks, language = 2 * 4 + 4 * 3, 3 * 3 + 7 * 2 * 3, (8 + 5) * 3, 8 * 3
    assert len(missing) == whole_and_few + scratch + features + unlabelled + choice + floors + curve + tasks + language - 4
    assert len(set(missing)) == len(missing)
    page = markdown_of_transfer({"rows": rows, "matrix": matrix_of(rows, LABELS), "missing": missing, "command": "a command"})
    assert "| the encoder alone |  |  |  | 0.800 (" in page
    assert "1.000 (1.000-1.000), +0.200 (" in page
    assert f"Unfinished: {len(missing)} cells are missing" in page
    assert "For nyt: It is unclear whether transfer from movies helped: +0.0000" in page


def stand_in(recipe: str, score: float) -> dict[str, Any]:
    interval = [score - 0.01, score + 0.01]
    row = {"name": f"stand-in-{recipe}-0", "kind": "stand_in", "recipe": recipe, "target": STAND_IN, "macro_f1": score}
    return {**row, "macro_f1_interval": interval, "num_texts": 6066}


def test_the_best_recipe_on_the_stand_in_is_chosen_and_students_of_another_are_made_again() -> None:
    first, second = UNLABELLED_RECIPES
    students = [
        {"name": f"unlabelled-{target}-0", "kind": "unlabelled", "recipe": recipe}
        for target, recipe in (("amazon", first), ("nyt", second))
    ]
    half = [stand_in(first, 0.71), *students]
    assert chosen_recipe(half) is None
    assert not {"unlabelled-amazon-0", "unlabelled-nyt-0"} & set(missing_of(half))  # nothing is chosen yet
    whole = [stand_in(second, 0.73), *half]
    assert chosen_recipe(whole) == second
    assert {"unlabelled-amazon-0", "unlabelled-nyt-0"} & set(missing_of(whole)) == {"unlabelled-amazon-0"}


def test_each_recipe_has_its_settings_and_a_cell_of_an_earlier_one_is_not_done(tmp_path: Path) -> None:
    assert set(UNLABELLED) == set(UNLABELLED_RECIPES)
    bench = Bench(tmp_path, SilentReporter())
    assert not bench.done("a")
    bench.keep("a", {"recipe": "one"})
    assert bench.done("a")
    assert bench.done("a", recipe="one")
    assert not bench.done("a", recipe="another")


def test_the_page_shows_what_was_tried_on_the_stand_in_and_the_best_in_bold() -> None:
    assert stand_in_in_lines([stand_in("one_way", 0.71), stand_in("another", 0.73)]) == [
        "| movies with its labels hidden, one seed | on 6,066 texts of it |",
        "|---|--:|",
        "| one way | 0.710 (0.700-0.720) |",
        "| another | **0.730 (0.720-0.740)** |",
        "",
    ]
