"""The settings of a recipe by values: copies, epochs, batch, length, and what a caller may change."""

from __future__ import annotations

import math

import pytest

from distill.errors import SettingsError
from distill.recipes import RECIPES, Effort, RecipeOptions, TextFacts, recipes_for, settings_for, stages_of

NARROW = RECIPES["narrow"]  # 160,000 views with effort standard, batches of 64


def facts(labelled: int, unlabelled: int = 0, **more: object) -> TextFacts:
    return TextFacts(labelled, unlabelled, **{"token_lengths": [20] * 99 + [60], "max_length": 128, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "copies", "epochs", "max_texts", "batch_size"),
    [
        (7_700, 12_300, 1, 4, None, 64),  # 40,000 different texts with one copy each, 4 times
        (2_000, 0, 19, 4, None, 64),  # 19 copies make 40,000 of them
        (200, 0, 20, 20, None, 64),  # 20 copies are the most: 4,200 texts 20 times, 1,312 steps
        (40, 0, 20, 20, None, 16),  # 840 texts 20 times: 262 steps of 64, 525 of 32, 1,050 of 16
        (100_000, 0, 0, 2, None, 64),
        (1_000_000, 1_000_000, 0, 1, 160_000, 64),  # less than one pass
    ],
)
def test_copies_and_epochs_make_up_the_views(
    labelled: int, unlabelled: int, copies: int, epochs: int, max_texts: int | None, batch_size: int
) -> None:
    found = settings_for(NARROW, facts(labelled, unlabelled))
    assert (found.augment, found.epochs, found.max_texts, found.batch_size) == (copies, epochs, max_texts, batch_size)


@pytest.mark.parametrize(
    ("tokens", "reads", "effort", "copies", "epochs"),
    [
        (32, 512, "quick", 9, 2),  # 20,000 views of 10,000 texts
        (64, 512, "quick", 4, 2),  # half of both
        (320, 512, "quick", 0, 10),  # a tenth would be 2,000; 600 steps of 16 are 9,600
        (320, 512, "standard", 3, 4),  # a tenth of 160,000 views and of 40,000 texts
        (320, 64, "standard", 19, 4),  # only 64 tokens of each are read: half
    ],
)
def test_long_texts_are_seen_less_often(tokens: int, reads: int, effort: Effort, copies: int, epochs: int) -> None:
    long = facts(1_000, token_lengths=[tokens] * 100, max_length=reads)
    found = settings_for(NARROW, long, effort=effort)
    assert (found.augment, found.epochs, found.max_texts) == (copies, epochs, None)


def test_a_part_of_the_training_of_long_texts_is_a_part_of_their_views() -> None:
    long = facts(1_000, token_lengths=[320] * 100, max_length=512)
    assert settings_for(NARROW, long, effort="quick", share=0.25).epochs == 2  # 2,400 views


def test_a_smaller_batch_has_a_lower_rate() -> None:
    assert settings_for(NARROW, facts(40)).learning_rate == pytest.approx(6e-4 / math.sqrt(64 / 16))
    assert settings_for(NARROW, facts(7_700)).learning_rate == pytest.approx(6e-4)


def test_effort_scales_views_and_copies() -> None:
    found = {effort: settings_for(NARROW, facts(5_000), effort=effort) for effort in ("quick", "standard", "thorough")}
    # 10,000, 40,000 and 100,000 different texts; 20,000, 160,000 and 200,000 views
    assert {effort: (one.augment, one.epochs) for effort, one in found.items()} == {
        "quick": (1, 2),
        "standard": (7, 4),
        "thorough": (19, 2),
    }


def test_a_quick_fit_considers_an_assistant_and_what_is_made_of_it_or_needs_none() -> None:
    names = recipes_for("quick")
    assert {RECIPES[name].assistant for name in names} == {"2-layers", None}
    own, lent = (settings_for(RECIPES["2-layers"], facts(1_500), effort="quick", as_assistant=each) for each in (False, True))
    assert own == lent  # trained once for both
    assert recipes_for("standard") == tuple(RECIPES)


def test_a_share_of_the_training_has_fewer_epochs_and_then_fewer_texts() -> None:
    half, tenth = (settings_for(NARROW, facts(20_000), share=share) for share in (0.5, 0.1))
    assert (half.augment, half.epochs, half.max_texts) == (1, 2, None)
    assert (tenth.augment, tenth.epochs, tenth.max_texts) == (1, 1, 8_000)  # 16,000 views of texts with one copy


def test_recorded_logits_allow_no_copies() -> None:
    found = settings_for(NARROW, facts(2_000, answers_new_texts=False))
    assert (found.augment, found.epochs) == (0, 20)


@pytest.mark.parametrize(
    ("longest", "teacher", "wanted"), [(20, 128, 32), (32, 128, 32), (33, 128, 48), (400, 128, 128), (400, None, 400)]
)
def test_the_length_covers_99_texts_of_100(longest: int, teacher: int | None, wanted: int) -> None:
    lengths = [10] * 98 + [longest] * 2
    assert settings_for(NARROW, facts(1_000, token_lengths=lengths, max_length=teacher)).max_length == wanted


def test_changes_override_and_the_rest_follows_from_them() -> None:
    found = settings_for(NARROW, facts(20_000), changes={"augment": 3, "learning_rate": 1e-5, "max_length": 24})
    assert (found.augment, found.epochs, found.learning_rate, found.max_length) == (3, 2, 1e-5, 24)
    assert settings_for(NARROW, facts(1_000_000), changes={"epochs": 7}).max_texts is None
    with pytest.raises(SettingsError, match="temperature"):
        settings_for(NARROW, facts(20_000), changes={"temperature": -1})


def test_an_assistant_shares_texts_and_seed_but_not_the_rest() -> None:
    options = RecipeOptions(seed=7, share=0.5, changes={"augment": 2, "temperature": 3.0, "learning_rate": 1e-5})
    assistant, student = stages_of(NARROW, facts(20_000), options)
    assert (assistant.name, student.name) == ("2-layers", "narrow")
    assert (assistant.settings.seed, student.settings.seed) == (7, 7)
    assert (assistant.settings.augment, student.settings.augment) == (2, 2)
    assert (assistant.settings.temperature, student.settings.temperature) == (2.0, 3.0)
    assert (assistant.settings.learning_rate, student.settings.learning_rate) == (2e-4, 1e-5)
    # 40,000 views of an assistant, which are 13,334 texts with two copies each; half of 160,000 of 60,000 texts
    assert (assistant.settings.max_texts, student.settings.max_texts) == (13_334, None)


def test_another_base_is_taught_with_all_its_layers_first() -> None:
    stages = stages_of(NARROW, facts(20_000), RecipeOptions(), base="builtin:minilm")
    assert [(stage.name, stage.settings.student) for stage in stages] == [
        ("6-layers", "builtin:minilm"),
        ("2-layers", None),
        ("narrow", None),
    ]
    (only,) = stages_of(RECIPES["6-layers"], facts(20_000), RecipeOptions(), base="builtin:minilm")
    assert (only.settings.student, only.settings.num_layers) == ("builtin:minilm", 6)


def test_what_shapes_the_student_cannot_be_changed() -> None:
    with pytest.raises(SettingsError, match="--hidden-size and --num-layers"):
        stages_of(NARROW, facts(20_000), RecipeOptions(changes={"num_layers": 3, "hidden_size": 96}))


def test_every_recipe_of_one_teacher_has_the_same_copies() -> None:
    many = [settings_for(recipe, facts(3_000, 4_000)) for recipe in RECIPES.values()]
    assert (
        len(
            {tuple((name, getattr(one, name)) for name in type(one).model_fields if name.startswith("augment")) for one in many}
        )
        == 1
    )
