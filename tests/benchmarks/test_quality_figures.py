"""Figures of the quality scenario, computed by hand from three seeds and four texts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from benchmarks.training.arms import ARMS
from benchmarks.training.quality_figures import (
    RETENTIONS,
    differences_of,
    markdown_of_summary,
    quality_figures,
    summary_of,
    verdict_of_quality,
)
from distill.data import Dataset
from distill.errors import PotstillError

TEST = Dataset(("a", "b", "c", "d"), np.array([0, 0, 1, 1]), ("negative", "positive"), "four texts")

# Macro-F1 of answers to 0 0 1 1:
#   0011: 1;  0010: F1 of 0 is 2*2/(2+3) = 0.8, of 1 is 2*1/(2+1) = 2/3, mean 11/15;  0000: (2/3 + 0) / 2 = 1/3
PERFECT, ONE_WRONG, ALL_ZERO = "0011", "0010", "0000"
F1 = {PERFECT: 1.0, ONE_WRONG: 11 / 15, ALL_ZERO: 1 / 3}


def row(name: str, seed: int, predicted: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "seed": seed,
        "precision": "fp32",
        "predicted": predicted,
        "accuracy": 0.5 + seed / 10,
        "agreement": 0.9,
        "expected_calibration_error": 0.1,
        "brier_score": 0.2,
        "negative_log_likelihood": 0.3,
        "training_s": 10.0 * (seed + 1),
        "num_parameters": 7,
        "multiply_adds_per_token": 5,
        "test_fingerprint": TEST.fingerprint(),
        **more,
    }


def all_rows() -> list[dict[str, Any]]:
    rows = [row("teacher", seed, PERFECT) for seed in range(3)]
    for name in ARMS:
        answers = (ALL_ZERO, ALL_ZERO, ONE_WRONG) if name == "2_layers_control" else (ONE_WRONG, PERFECT, ONE_WRONG)
        rows += [row(name, seed, predicted) for seed, predicted in enumerate(answers)]
    return rows


def test_a_summary_is_the_mean_over_seeds_and_its_share_of_the_teachers() -> None:
    summary = {found["name"]: found for found in summary_of(all_rows(), TEST)}
    expected = (11 / 15 + 1 + 11 / 15) / 3
    assert summary["teacher"]["macro_f1"]["value"] == 1
    assert summary["2_layers"]["macro_f1"]["value"] == pytest.approx(expected)
    assert summary["2_layers"]["retention"]["value"] == pytest.approx(expected)
    assert summary["2_layers"]["accuracy"] == pytest.approx(0.6)
    assert summary["2_layers"]["training_s"] == pytest.approx(20)
    assert summary["2_layers"]["p50_ms"] is None


def test_differences_are_first_arm_minus_second() -> None:
    found = differences_of(all_rows(), TEST)
    control = (1 / 3 + 1 / 3 + 11 / 15) / 3
    assert found["gain_over_control_2_layers"].value == pytest.approx((11 / 15 + 1 + 11 / 15) / 3 - control)
    assert found["vocabulary_cost"].value == 0


def test_what_trimming_costs_is_the_mean_over_its_pairs_of_arms() -> None:
    better = [found | {"predicted": PERFECT} if found["name"] == "3_layers_whole_vocabulary" else found for found in all_rows()]
    lost_of_three_layers = 1 - (11 / 15 + 1 + 11 / 15) / 3
    assert differences_of(better, TEST)["vocabulary_cost"].value == pytest.approx((0 + 0 + lost_of_three_layers + 0) / 4)
    without = [found for found in better if found["name"] != "3_layers_whole_vocabulary"]
    assert "vocabulary_cost" not in differences_of(without, TEST)


def test_int8_is_set_beside_the_fp32_of_its_own_arm() -> None:
    rows = [*all_rows(), *(row("2_layers", seed, ONE_WRONG, precision="int8") for seed in range(3))]
    summary = {found["name"]: found for found in summary_of(rows, TEST)}
    assert summary["2_layers"]["int8_macro_f1"]["value"] == pytest.approx(11 / 15)
    assert summary["2_layers"]["int8_drop"]["value"] == pytest.approx((1 - 11 / 15) / 3)
    assert "int8_macro_f1" not in summary["3_layers"]


def test_an_arm_that_was_not_run_gives_no_figure() -> None:
    rows = [found for found in all_rows() if found["name"] not in {"narrow", "2_layers_control"}]
    compared = {name: asdict(found) for name, found in differences_of(rows, TEST).items()}
    figures = quality_figures(summary_of(rows, TEST), compared)
    assert {"retention_2_layers", "vocabulary_cost"} < figures.keys()
    assert not {"retention_narrow", "gain_over_control_2_layers"} & figures.keys()


def test_a_result_that_lacks_runs_says_so_first_of_all_that_it_is_unfinished() -> None:
    gain = {"gain_over_control_2_layers": {"value": 0.02, "low": 0.01, "high": 0.03}}
    whole = verdict_of_quality(gain, [], num_seeds=3)
    assert whole.startswith("Distillation helped: +0.0200")
    assert "Unfinished" not in whole
    said = verdict_of_quality({}, ["static-1-fp32"], num_seeds=3)
    assert said == "Unfinished: 1 runs are missing (static-1-fp32)."


def test_the_figures_are_those_that_the_arms_stand_for() -> None:
    rows = all_rows()
    compared = {name: asdict(found) for name, found in differences_of(rows, TEST).items()}
    figures = quality_figures(summary_of(rows, TEST), compared)
    assert figures["teacher_macro_f1"] == 1
    assert figures.keys() == {"teacher_macro_f1", "vocabulary_cost", "gain_over_control_2_layers", *RETENTIONS}


def test_an_arm_with_a_seed_missing_has_no_mean() -> None:
    rows = [found for found in all_rows() if (found["name"], found["seed"]) != ("2_layers", 1)]
    assert "2_layers" not in {found["name"] for found in summary_of(rows, TEST)}


def test_rows_of_other_texts_are_refused() -> None:
    rows = all_rows()
    rows[-1]["test_fingerprint"] = "another"
    with pytest.raises(PotstillError, match="other test texts"):
        summary_of(rows, TEST)


def test_without_its_teachers_nothing_can_be_said() -> None:
    with pytest.raises(PotstillError, match="reference teacher"):
        summary_of([found for found in all_rows() if found["name"] != "teacher"], TEST)


def test_the_table_has_a_row_for_each_arm_and_dashes_where_nothing_was_measured() -> None:
    lines = markdown_of_summary(summary_of(all_rows(), TEST)).splitlines()
    assert len(lines) == 2 + 1 + len(ARMS)
    assert lines[2].startswith("| reference teacher, 6 layers | 1.0000 | 100.0% |")
    assert lines[2].endswith("| - | - | - |")
    assert len({line.count("|") for line in lines}) == 1
