"""Figures of the quality scenario, computed by hand from three seeds and four texts."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.quality.arms import ARMS
from benchmarks.quality.summary import RETENTIONS, gain_of, points_of, quality_figures, quality_table, summary_of
from distill.errors import PotstillError

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
        **more,
    }


def all_rows() -> list[dict[str, Any]]:
    rows = [row("teacher", seed, PERFECT) for seed in range(3)]
    for name in ARMS:
        answers = (ALL_ZERO, ALL_ZERO, ONE_WRONG) if name == "2_layers_control" else (ONE_WRONG, PERFECT, ONE_WRONG)
        rows += [row(name, seed, predicted) for seed, predicted in enumerate(answers)]
    return rows


def result(rows: list[dict[str, Any]] | None = None, *, missing: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"rows": all_rows() if rows is None else rows, "test_labels": PERFECT, "missing": list(missing)}


def test_a_summary_is_the_mean_over_seeds_and_its_share_of_the_teachers() -> None:
    summary = {found["name"]: found for found in summary_of(result())}
    expected = (11 / 15 + 1 + 11 / 15) / 3
    assert summary["teacher"]["macro_f1"].value == 1
    assert summary["2_layers"]["macro_f1"].value == pytest.approx(expected)
    assert summary["2_layers"]["retention"].value == pytest.approx(expected)
    assert summary["2_layers"]["agreement"] == pytest.approx(0.9)
    assert summary["2_layers"]["p50_ms"] is None


def test_the_gain_is_the_student_minus_its_control() -> None:
    found, control = gain_of(result()), (1 / 3 + 1 / 3 + 11 / 15) / 3
    assert found is not None
    assert found.value == pytest.approx((11 / 15 + 1 + 11 / 15) / 3 - control)


def test_int8_is_set_beside_the_fp32_of_its_own_arm() -> None:
    rows = [*all_rows(), *(row("2_layers", seed, ONE_WRONG, precision="int8") for seed in range(3))]
    summary = {found["name"]: found for found in summary_of(result(rows))}
    assert summary["2_layers"]["int8_macro_f1"].value == pytest.approx(11 / 15)
    assert summary["3_layers"]["int8_macro_f1"] is None


def test_an_arm_that_was_not_run_gives_no_figure() -> None:
    rows = [found for found in all_rows() if found["name"] not in {"narrow", "2_layers_control"}]
    figures = quality_figures(result(rows))
    assert "retention_2_layers" in figures
    assert not {"retention_narrow", "gain_over_control_2_layers"} & figures.keys()


def test_the_control_is_judged_and_missing_runs_are_counted() -> None:
    whole = quality_table(result())
    assert "distillation helped: +0.3556" in whole  # 37/45 - 21/45, of three seeds of four texts
    assert "Unfinished" not in whole
    assert quality_table(result(missing=("static-1-fp32",))).endswith(
        "Unfinished, missing runs: 1; see `missing` in the result file."
    )


def test_the_figures_are_those_that_the_arms_stand_for() -> None:
    figures = quality_figures(result())
    assert figures["teacher_macro_f1"] == 1
    assert figures.keys() == {"teacher_macro_f1", "gain_over_control_2_layers", *RETENTIONS}


def test_an_arm_with_a_seed_missing_has_no_mean() -> None:
    rows = [found for found in all_rows() if (found["name"], found["seed"]) != ("2_layers", 1)]
    assert "2_layers" not in {found["name"] for found in summary_of(result(rows))}


def test_without_its_teachers_nothing_can_be_said() -> None:
    with pytest.raises(PotstillError, match="reference teacher"):
        summary_of(result([found for found in all_rows() if found["name"] != "teacher"]))


def test_the_table_has_a_row_for_each_arm_and_dashes_where_nothing_was_measured() -> None:
    lines = quality_table(result()).splitlines()[: 2 + 1 + len(ARMS)]
    assert lines[2].startswith("| reference teacher, 6 layers | 1.0000 | 100.0% |")
    assert lines[2].endswith("| - | - | - |")
    assert len({line.count("|") for line in lines}) == 1


def test_a_point_of_the_picture_is_what_ships_and_of_the_teacher_what_it_is() -> None:
    shipped = [row("1_layer", seed, ALL_ZERO, precision="int8") for seed in range(3)]
    points = {point["name"]: point for point in points_of(result([*all_rows(), *shipped]))}
    teacher, student = points["reference teacher, 6 layers"], points["1 layer"]
    assert (teacher["runtime"], teacher["precision"], teacher["macro_f1"]["value"]) == ("pytorch", "fp32", 1)
    assert (student["runtime"], student["precision"]) == ("onnxruntime", "int8")
    assert student["macro_f1"]["value"] == pytest.approx(F1[ALL_ZERO])
    assert student["macro_f1"]["low"] <= student["macro_f1"]["value"] <= student["macro_f1"]["high"]
