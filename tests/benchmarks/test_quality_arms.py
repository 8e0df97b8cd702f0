"""The arms are the recipes: the published rows have their settings, and the recipes state what the rows found."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.results import read_result
from benchmarks.quality.arms import ARMS, EFFORT
from benchmarks.quality.summary import summary_of
from distill.measured import MEASURED, Measured
from distill.recipes import RECIPES, TextFacts, settings_for

# Of builtin:movies with the other sets as unlabelled texts: 99 of 100 texts have at most 55 tokens.
FACTS = TextFacts(num_labelled=7709, num_unlabelled=12_610, token_lengths=[25] * 98 + [55] * 2, max_length=128)
RESULT = read_result("quality")
NOT_COMPARED = {"student", "seed", "device"}


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if not arm.control])
def test_a_published_row_was_trained_with_the_settings_of_its_recipe(name: str) -> None:
    arm = ARMS[name]
    settings = settings_for(arm.recipe, FACTS, effort=EFFORT, changes=arm.changes).model_dump(mode="json")
    rows = [row for row in RESULT["rows"] if row["name"] == name and "settings" in row]
    assert rows
    for row in rows:  # a setting that came later is not in it, and has its default
        assert {key: value for key, value in row["settings"].items() if key not in NOT_COMPARED} == {
            key: value for key, value in settings.items() if key in row["settings"] and key not in NOT_COMPARED
        }


def test_the_recipes_state_what_the_committed_result_says() -> None:
    summary: dict[str, Any] = {row["name"]: row for row in summary_of(RESULT)}
    plain = {name: arm for name, arm in ARMS.items() if arm.shipped}
    assert dict(MEASURED) == {
        arm.recipe.name: Measured(
            kept=round(summary[name]["retention"].value, 3),
            times_faster=round(summary[name]["p50_ratio_teacher"], 1),
            megabytes=round(summary[name]["size_bytes"] / 1e6, 1),
        )
        for name, arm in plain.items()
    }
    assert set(RECIPES) - set(MEASURED) == {"6-layers"}


def test_an_arm_is_made_of_the_student_of_its_recipes_assistant() -> None:
    for arm in ARMS.values():
        made_of = None if arm.assistant is None else ARMS[arm.assistant].recipe.name
        assert made_of == arm.recipe.assistant
