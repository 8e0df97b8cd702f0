"""Recipes on the tiny task: assistants are kept, shared, and trained again only when something changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_task import BAD_WORDS, GOOD_WORDS, Listening, Outcome, tiny_texts

from distill.bundle import WEIGHTS, Bundle
from distill.data import Splits
from distill.recipes import RECIPES, Recipe, RecipeOptions
from distill.training.by_recipe import fit_by_recipe

UNLABELED = tuple(text for text, _ in tiny_texts(60, seed=7))
# The tiny teacher has 64 channels and 4 heads, and 34 tokens.
SMALL = {"augment": 1, "epochs": 1, "learning_rate": 2e-3, "batch_size": 32}


def small(name: str, **shape: object) -> Recipe:
    """Return a recipe for the tiny teacher."""
    recipe = RECIPES[name]
    return replace(recipe, settings=recipe.settings.model_copy(update={"vocabulary_size": None, **shape}))


def fit(name: str, teacher: Bundle, splits: Splits, out: Path, **more: object) -> tuple[Bundle, list[str]]:
    shape = {"narrow": {"hidden_size": 32, "intermediate_size": 64}, "1-layer": {}}[name]
    listening = Listening()
    options = more.pop("options", RecipeOptions(changes=SMALL))
    bundle = fit_by_recipe(
        small(name, **shape), teacher, splits, unlabeled=UNLABELED, out=out, options=options, reporter=listening, **more
    )
    return bundle, listening.said


@pytest.fixture(scope="module")
def narrow(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a narrow student in `student`, with its assistant beside it; do not change it."""
    return fit("narrow", tiny_teacher, tiny_splits, tmp_path_factory.mktemp("recipes") / "student")[0]


def test_the_assistant_is_kept_and_the_student_is_made_of_it(narrow: Bundle) -> None:
    assistant = Bundle.open(narrow.path.with_name("student-assistants") / "2-layers-seed-0")
    assert assistant.manifest.settings["student"]["num_layers"] == 2
    assert assistant.manifest.settings["student"]["hidden_size"] is None
    assert narrow.manifest.settings["student"]["student"] == "2-layers-seed-0"
    assert narrow.manifest.settings["student"]["hidden_size"] == 32
    assert not (narrow.path.with_name("student-assistants") / ".unlabeled").exists()


def test_another_recipe_uses_the_same_assistant_and_other_texts_do_not(
    narrow: Bundle, tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    shared = narrow.path.with_name("student-assistants")
    before = (shared / "2-layers-seed-0" / WEIGHTS).stat().st_mtime_ns
    _, said = fit("1-layer", tiny_teacher, tiny_splits, tmp_path / "other", assistants=shared)
    assert "2-layers-seed-0: already done" in said
    assert (shared / "2-layers-seed-0" / WEIGHTS).stat().st_mtime_ns == before
    fewer = replace(tiny_splits, validation=tiny_splits.train)
    _, said = fit("1-layer", tiny_teacher, fewer, tmp_path / "again", assistants=tmp_path / "assistants")
    _, said = fit("1-layer", tiny_teacher, tiny_splits, tmp_path / "again", assistants=tmp_path / "assistants")
    assert "2-layers-seed-0: training" in said


def test_the_share_is_of_the_student_alone(narrow: Bundle, tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    shared = narrow.path.with_name("student-assistants")
    changes = {name: value for name, value in SMALL.items() if name != "epochs"}
    options = RecipeOptions(share=0.001, changes=changes)
    full = Bundle.open(shared / "2-layers-seed-0").manifest
    bundle, _ = fit("1-layer", tiny_teacher, tiny_splits, tmp_path / "part", assistants=tmp_path / "own", options=options)
    # 240 views of texts with one copy each: 120 of the 360 texts
    assert bundle.manifest.settings["student"]["max_texts"] == 120
    own = Bundle.open(tmp_path / "own" / "2-layers-seed-0").manifest
    assert own.settings["student"]["epochs"] == 20
    assert own.lineage == full.lineage


def test_the_command_makes_assistant_student_and_control(
    potstill: Callable[..., Outcome], tiny_teacher: Bundle, tiny_csv: Path, tmp_path: Path
) -> None:
    command = ["distill", tiny_teacher.path, "--train", tiny_csv, "--out", tmp_path / "out", "--recipe", "1-layer"]
    done = potstill(*command, "--effort", "quick", "--epochs", 2, "--augment", 0, "--control", "--json")
    assert done.code == 0, done.err
    runs = {path.name: Bundle.open(path).manifest for path in (tmp_path / "out" / "runs").glob("*-seed-0")}
    kept = {path.name: Bundle.open(path).manifest for path in (tmp_path / "out-assistants").glob("*-seed-0")}
    assert set(runs) == {"student-seed-0", "control-seed-0"}
    assert set(kept) == {"2-layers-seed-0", "2-layers-control-seed-0"}
    weights = {name: one.settings["student"]["soft_weight"] for name, one in {**runs, **kept}.items()}
    assert {name: weight == 0 for name, weight in weights.items()} == {name: "control" in name for name in weights}
    made = runs["student-seed-0"].settings["student"]
    # --epochs is the student's own, --augment that of the assistant too; 320 texts allow 20 epochs.
    assert (made["epochs"], made["augment"]) == (2, 0)
    assistant = kept["2-layers-seed-0"].settings["student"]
    assert (assistant["epochs"], assistant["augment"]) == (20, 0)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--recipe", "narrow", "--num-layers", 3), "--num-layers"),
        (("--recipe", "narrow", "--student", "builtin:minilm"), "--student"),
        (("--effort", "quick"), "--recipe"),
        (("--recipe", "wide"), "wide"),
    ],
)
def test_flags_that_contradict_a_recipe_are_refused_before_anything_is_read(
    flags: tuple[object, ...], said: str, potstill: Callable[..., Outcome], tmp_path: Path
) -> None:
    done = potstill("distill", tmp_path / "no teacher", "--train", tmp_path / "none.csv", "--out", tmp_path / "out", *flags)
    assert done.code == 2
    assert said in done.err
    assert not list(tmp_path.iterdir())


class Counting:
    """A teacher that is no PyTorch model: it counts words."""

    labels = ("negative", "positive")
    problem_type = "single_label_classification"

    def digest(self) -> str:
        return "counting"

    def predict_logits(self, texts: Sequence[str]) -> np.ndarray:
        scores = [sum((word in GOOD_WORDS) - (word in BAD_WORDS) for word in text.split()) for text in texts]
        return np.array([[-score, score] for score in scores], dtype=np.float32)


@pytest.mark.slow
def test_a_teacher_without_layers_has_students_made_of_minilm(tiny_splits: Splits, tmp_path: Path) -> None:
    options = RecipeOptions(effort="quick", changes={"augment": 0, "max_texts": 20})
    bundle = fit_by_recipe(RECIPES["narrow"], Counting(), tiny_splits, out=tmp_path / "out", options=options)
    made = [Bundle.open(tmp_path / "out-assistants" / f"{name}-layers-seed-0").manifest for name in (6, 2)]
    assert [one.lineage.base_model for one in made] == ["builtin:minilm", "6-layers-seed-0"]
    assert bundle.manifest.lineage.base_model == "2-layers-seed-0"
    # 22.7 million, less two thirds of the tokens and the positions beyond max_length
    assert 14e6 < made[0].num_parameters < 15e6
