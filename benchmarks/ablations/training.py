"""How an arm of the scenario `ablations` is trained and asked: as a user does it, with the teachers of the same seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.ablations.levers import AMAZON, EFFORT, FEW_EPOCHS, MOVIES, SHOTS, Arm
from benchmarks.harness.pieces import Rows
from benchmarks.transfer.bench import Bench, Start, Texts, quality_of_logits, scratch, tuned
from benchmarks.transfer.recipes import few_settings
from distill.bundle import Bundle
from distill.data import Splits, limited
from distill.models.loading import load_bundle
from distill.progress import Reporter
from distill.recipes import RECIPES, Recipe, settings_for
from distill.settings import BUILTIN_MINILM
from distill.students.bases import base_of
from distill.teacher_settings import TeacherSettings
from distill.teachers.teacher import open_teacher
from distill.training.by_recipe import text_facts
from distill.training.distillation import fit_student
from distill.training.origin import Origin, SourceTask
from export.fitting.training import tuned_teacher
from export.pipeline import export_bundle
from export.runtime.sessions import OnnxClassifier
from export.settings import ExportSettings


@dataclass(frozen=True)
class Work:
    """Where arms are trained, and on what.

    Attributes:
        folder: Of the scenario.
        rows: The finished ones, by arm and seed.
        reporter: Told of each step.
        limit: Texts of each split, at most; None: all.
        model: What the teachers are fine-tuned from.
        teacher: How, all but the seed.
        recipe: What every student is.
        share: Every student's share of its training.
        few_epochs: Epochs of a chain.
    """

    folder: Path
    rows: Rows
    reporter: Reporter
    limit: int | None = None
    model: str = BUILTIN_MINILM
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    recipe: Recipe = RECIPES["narrow"]
    share: float = 1.0
    few_epochs: int = FEW_EPOCHS

    @cached_property
    def bench(self) -> Bench:
        """What the cells of `transfer` are made with, which the chains are too."""
        return Bench(self.folder, self.reporter, limit=self.limit)

    @cached_property
    def further(self) -> tuple[Any, ...]:
        """Texts of amazon, in an order of their own."""
        texts = self.bench.builtin(AMAZON).train
        return limited(texts, len(texts), seed=0).texts


def make_row(work: Work, name: str, arm: Arm, seed: int) -> None:
    """Train an arm unless its row is there, and keep its answers to the test texts; the model is not kept.

    A row of an arm that was something else then is made again.
    """
    row = {"name": f"{name}-{seed}", "arm": name, "seed": seed, "is": json.loads(json.dumps(asdict(arm)))}
    if row.items() <= (work.rows.find(row["name"]) or {}).items():
        return
    work.reporter.say(f"{name}, seed {seed}")
    texts = work.bench.builtin(arm.task)
    with scratch(work.folder) as out:
        bundle = (_chained if arm.is_chain else _taught)(work, arm, seed, texts, out / "bundle")
        answering = _answering(bundle, arm, texts)
        found = {
            "seconds": bundle.manifest.training_s,
            **quality_of_logits(answering.predict_logits(texts.test.texts), texts.test),
        }
        if arm.is_chain:
            before = work.bench.builtin(MOVIES).test
            found["before"] = quality_of_logits(answering.predict_logits(before.texts), before)["predicted"]
    work.rows.keep({**row, **found})


def _taught(work: Work, arm: Arm, seed: int, texts: Texts, out: Path) -> Bundle:
    """Return a student of the task's teacher of the same seed, or of several."""
    seeds = (seed,) if arm.teachers == 1 else range(arm.teachers)
    teacher = open_teacher([_teacher_of(work, arm.task, each, texts) for each in seeds], device="auto")
    splits, further = Splits(texts.train, texts.validation, texts.test), work.further[: arm.unlabeled]
    facts = text_facts(teacher, splits, len(further), base=base_of(teacher, texts.train.texts))
    settings = settings_for(
        work.recipe, facts, effort=EFFORT, share=arm.share * work.share, changes={**arm.changes, "seed": seed}
    )
    return fit_student(
        teacher,
        train=texts.train,
        validation=texts.validation,
        test=texts.test,
        unlabeled=further,
        out=out,
        settings=settings,
        reporter=work.reporter,
    )


def _chained(work: Work, arm: Arm, seed: int, texts: Texts, out: Path) -> Bundle:
    """Return the teacher of movies, fine-tuned further on a few labels of the task."""
    before = work.bench.builtin(MOVIES)
    source = SourceTask(before.train, before.test) if "replay_share" in arm.changes else None
    origin = Origin(init=_teacher_of(work, MOVIES, seed, before), source=source)
    like = {"epochs": work.few_epochs, "patience": work.few_epochs, "max_length": work.teacher.max_length}
    settings = TeacherSettings(**{**few_settings(SHOTS, seed=seed).model_dump(), **like, **arm.changes})
    return tuned(work.bench, texts, Start(settings, model=work.model, origin=origin), out=out)


def _teacher_of(work: Work, task: str, seed: int, texts: Texts) -> Bundle:
    splits, settings = Splits(texts.train, texts.validation, None), work.teacher.model_copy(update={"seed": seed})
    return tuned_teacher(work.model, splits, settings, out=work.folder, name=f"teacher-{task}-{seed}", reporter=work.reporter)


def _answering(bundle: Bundle, arm: Arm, texts: Texts) -> Any:
    """Return what answers for an arm: its weights, or its int8 graph, which no gate keeps from being measured."""
    if arm.tables is None:
        return load_bundle(bundle)
    settings = ExportSettings(embeddings=arm.tables, budget_f1=1.0, budget_recall=1.0, budget_ece=1.0, min_agreement=0.0)
    exported = export_bundle(bundle, validation=texts.validation, settings=settings)
    return OnnxClassifier.open(exported, precision="int8")
