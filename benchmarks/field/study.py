"""What the scenarios `sst2` and `trec6` train and measure: values, and the settings that change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from benchmarks.harness.speed import SpeedSettings
from distill.recipes import RECIPES, Effort, RecipeName
from distill.settings import BUILTIN_MINILM, BUILTIN_MPNET, Settings
from distill.teacher_settings import TeacherSettings

TEACHER: Final = "teacher"
FIRST: Final[RecipeName] = "6-layers"
"""The recipe whose student is made of the base itself; the others are made of that student, or of their own assistant."""
EFFORT: Final[Effort] = "thorough"


@dataclass(frozen=True)
class FieldStudy:
    """A published set, its teacher and its students.

    Attributes:
        name: Of the scenario.
        title: Of the set, in tables.
        measuring: Names of the sets that measure, the one that papers report first.
        teacher: How the teacher is fine-tuned.
        unlabeled: Sources of further texts.
        copies: Noisy copies of each text.
        share: Students see this many times the texts that their recipes ask for with effort `thorough`.
        model: What the teacher is fine-tuned from.
        base: What the students are made of.
        recipes: The students.
        seeds: Of the students; the teacher has the first.
        changes: Settings that override those of the recipes.
        speed: How the speed is measured.
    """

    name: str
    title: str
    measuring: tuple[str, ...]
    teacher: TeacherSettings
    unlabeled: tuple[str, ...] = ()
    copies: int = 4
    share: float = 1.0
    model: str = BUILTIN_MPNET
    base: str = BUILTIN_MINILM
    recipes: tuple[RecipeName, ...] = tuple(recipe.name for recipe in RECIPES.values())
    seeds: tuple[int, ...] = (0, 1, 2)
    changes: Mapping[str, Any] = field(default_factory=dict)
    speed: SpeedSettings = field(default_factory=SpeedSettings)


SST2: Final = FieldStudy(
    name="sst2",
    title="SST-2",
    measuring=("dev", "test"),
    teacher=TeacherSettings(
        epochs=2, batch_size=32, learning_rate=2e-5, class_weights="none", mixed_precision="auto", checkpoint_every_s=600
    ),
    unlabeled=("builtin:movies", "builtin:amazon"),
    share=2.0,
)
TREC6: Final = FieldStudy(
    name="trec6",
    title="TREC-6",
    measuring=("test",),
    teacher=TeacherSettings(
        epochs=3, batch_size=16, learning_rate=3e-5, class_weights="none", mixed_precision="auto", checkpoint_every_s=600
    ),
)


class FieldSettings(Settings):
    """Where a published set is, and what differs from the study whose result is kept."""

    data: Path | None = Field(
        None,
        description="folder of the data set, required: train.tsv and the files to measure on, with label and text "
        "separated by a tab",
    )
    recorded: Path | None = Field(
        None, description="file of published teacher logits; students learn from it instead of a teacher, and nothing is timed"
    )
    recipes: tuple[RecipeName, ...] = Field((), description="train only these students; default: all")
    seeds: tuple[int, ...] = Field((), description="seeds of the students; default: those of the study")
    copies: int | None = Field(None, ge=0, description="number of noisy copies of each text; default: that of the study")
    share: float | None = Field(
        None, gt=0, description="number of texts that students see in training, relative to effort thorough; 1: as many"
    )

    def study_of(self, study: FieldStudy) -> FieldStudy:
        """Return the study with what these settings change."""
        given = {"recipes": self.recipes or None, "seeds": self.seeds or None, "copies": self.copies, "share": self.share}
        return replace(study, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
