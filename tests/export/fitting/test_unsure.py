"""What becomes of unsure answers: the choice, what it trains, once, and how it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from distill.bundle import WEIGHTS, Bundle
from distill.data import Dataset, Splits
from distill.errors import SettingsError
from distill.evaluation.intervals import Figure
from distill.labels import Logits, ProblemType
from distill.progress import SilentReporter
from distill.recipes import Stage
from distill.settings import DistillSettings, Unsure
from distill.teachers.teacher import open_teacher
from distill.training.by_recipe import Learning
from export.fitting.choose import Costs, way_of_unsure
from export.fitting.job import Job, prepared
from export.fitting.plan import planned_minutes
from export.fitting.reporting.answers import unsure_words
from export.fitting.reporting.result import Score, TriedWay, UnsureAnswers
from export.fitting.scores import Scorer
from export.fitting.unsure import tried_ways
from export.fitting.weighing import Candidates, Form
from export.settings import FitSettings

SHORT = DistillSettings(num_layers=1, epochs=1, soft_weight=1.0, learning_rate=2e-3, batch_size=32, max_length=16)


def figure(value: float, *, spread: float = 0.0) -> Figure:
    """Return a score that is `spread` lower in one resample of the texts and higher in another: that is its error."""
    return Figure(np.array([value]), np.array([[value - spread], [value + spread]]))


@pytest.mark.parametrize(
    ("weigh", "leave_out", "expected"),
    [
        (figure(0.806, spread=0.004), figure(0.79), "weigh"),
        (figure(0.806, spread=0.004), figure(0.81, spread=0.004), "leave_out"),
        (figure(0.806, spread=0.004), figure(0.81, spread=0.02), "weigh"),  # 0.01 better, but its error is 0.02
        (figure(0.806, spread=0.008), figure(0.81, spread=0.02), "keep"),
        (figure(0.79), figure(0.78), "keep"),
        (figure(0.8), figure(0.8), "keep"),
    ],
)
def test_answers_are_kept_unless_a_way_is_better_by_more_than_its_error(
    weigh: Figure, leave_out: Figure, expected: Unsure
) -> None:
    assert way_of_unsure({"keep": figure(0.8), "weigh": weigh, "leave_out": leave_out}) == expected


def test_the_error_is_that_of_the_paired_difference() -> None:
    # Both scores move by 0.1 with the texts, but together.
    assert way_of_unsure({"keep": figure(0.8, spread=0.1), "weigh": figure(0.801, spread=0.1)}) == "weigh"


def test_a_student_is_taught_every_way_once(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    splits = replace(tiny_splits, train=tiny_splits.train.take(range(64)))
    learning = Learning(open_teacher(tiny_teacher, device="cpu"), splits, (), SilentReporter())

    def run() -> UnsureAnswers:
        scorer = Scorer(splits.validation, "macro_f1")
        return tried_ways(Stage("1-layer", SHORT), learning, scorer, folder=tmp_path)

    found = run()
    ways = ["keep", "weigh", "leave_out"]
    assert [each.way for each in found.tried] == ways
    assert (found.recipe, found.given, found.by_answers) == ("1-layer", False, False)
    assert found.tried[0].gain == found.tried[0].standard_error == 0
    bundles = [Bundle.open(tmp_path / "unsure" / way / "1-layer-seed-0") for way in ways]
    assert [each.manifest.settings["student"]["unsure"] for each in bundles] == ways
    assert len({each.manifest.files[WEIGHTS].sha256 for each in bundles}) == 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(WEIGHTS)}
    assert run() == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob(WEIGHTS)} == before


class EquallySure:
    """A teacher that is equally sure of all texts."""

    labels = ("negative", "positive")
    problem_type: ProblemType = "single_label_classification"

    def predict_logits(self, texts: Any) -> Logits:
        return np.array([[1, -1] if len(text) % 2 else [-1, 1] for text in texts], dtype=np.float32)

    def digest(self) -> str:
        return "equally sure"


def test_nothing_is_trained_where_all_answers_are_equally_sure(tiny_splits: Splits, tmp_path: Path) -> None:
    learning = Learning(open_teacher(EquallySure(), device="cpu"), tiny_splits, (), SilentReporter())
    found = tried_ways(Stage("1-layer", SHORT), learning, Scorer(tiny_splits.validation, "macro_f1"), folder=tmp_path)
    assert found == UnsureAnswers("keep")
    assert not list(tmp_path.iterdir())
    assert unsure_words(found, "macro_f1") == "Unsure answers count like the others: the teacher is equally sure of all."


def test_fit_chooses_with_a_language_model_as_teacher_only_unless_told_otherwise() -> None:
    def unsure(answers: str | None, *unlabeled: str, train: str = "answers:folder", **settings: Any) -> str:
        nothing, labelled = cast("Any", None), Dataset(("a", "b"), np.array([0, 1]), ("negative", "positive"), train)
        job = Job(Splits(labelled, labelled, None), unlabeled, FitSettings(**settings), nothing, nothing, nothing, answers)
        return job.unsure

    assert unsure("answers:folder") == "choose"
    assert unsure(None) == "keep"
    assert unsure("answers:folder", unsure="weigh") == unsure(None, unsure="weigh") == "weigh"
    # Texts with human labels are kept in every way: all students would be the same.
    assert unsure("answers:folder", train="gold.csv") == "keep"
    assert unsure("answers:folder", "a text without a label", train="gold.csv") == "choose"


def test_texts_with_several_labels_have_no_certainty(tiny_splits: Splits, tiny_teacher: Bundle) -> None:
    train, validation = (
        replace(part, label_ids=np.stack([part.label_ids, 1 - part.label_ids], axis=1))
        for part in (tiny_splits.train, tiny_splits.validation)
    )
    several = Splits(train, validation, None)
    with pytest.raises(SettingsError, match="--unsure choose needs single_label_classification"):
        prepared(several, tiny_teacher, (), FitSettings(unsure="choose"), SilentReporter())


def test_a_student_and_its_assistants_are_taught_the_chosen_way_and_the_trials_are_planned() -> None:
    stages = {"1-layer": (Stage("2-layers", SHORT), Stage("1-layer", SHORT))}
    form = Form("1-layer", "int8", Costs(1.0, 1))
    candidates = Candidates((form,), stages, stages, {"1-layer": 0.6}, teacher_answer_s=0.0, max_length=16, truncated=0.0)
    taught = candidates.taught("leave_out")
    for chain in (*taught.stages.values(), *taught.in_part.values()):
        assert [(each.name, each.settings.unsure) for each in chain] == [("2-layers", "leave_out"), ("1-layer", "leave_out")]
    assert candidates.stages["1-layer"][0].settings.unsure == "keep"

    def minutes(ways: int) -> float:
        amounts = {"num_texts": 100, "teacher_views": 0, "ways": ways}
        return planned_minutes(candidates, ["1-layer"], effort="standard", halving=True, **amounts)["students"]

    assert minutes(3) - minutes(0) == pytest.approx(3)  # 100 texts at 0.6 s, three times


def test_the_sentence_says_what_was_chosen_and_on_what() -> None:
    tried = (
        TriedWay("keep", Score(0.77, 0.75, 0.79), 0.0, 0.0),
        TriedWay("weigh", Score(0.781, 0.76, 0.8), 0.011, 0.009),
        TriedWay("leave_out", Score(0.768, 0.75, 0.78), -0.002, 0.008),
    )
    found = UnsureAnswers("weigh", tried=tried, recipe="static", by_answers=True)
    assert unsure_words(found, "macro_f1") == (
        "Each answer is weighed by its certainty: after a short training a static student reached macro-F1 0.7700 with all "
        "answers alike, 0.7810 with weighed answers (+0.0110, standard error 0.0090) and 0.7680 with a fifth left out "
        "(-0.0020, standard error 0.0080) on the validation texts, whose labels are answers of the language model too."
    )
    assert "language model" not in unsure_words(replace(found, by_answers=False), "macro_f1")
    given = unsure_words(UnsureAnswers("leave_out", given=True), "macro_f1")
    assert given == "The least certain fifth of the answers of each label is left out, as --unsure asks."
