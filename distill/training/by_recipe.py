"""Training a student by recipe, the assistants it is made of included.

out/                                 the student
out-assistants/2-layers-seed-0/      its assistant, which other recipes use too
out-assistants/finished.json         what decided each assistant, so that none is trained twice
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from distill.bundle import Bundle
from distill.data import Dataset, Splits, limited
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter, SilentReporter
from distill.recipes import Recipe, RecipeOptions, Stage, TextFacts, stages_of
from distill.storage import require_writable
from distill.students.bases import Base, base_of
from distill.teachers.recorded import RecordedLogits
from distill.teachers.teacher import AnyTeacher, Teacher, open_teacher
from distill.texts import TextInput
from distill.training.distillation import new_student, train_student
from distill.training.finished import inputs_of, trained_once
from distill.training.lesson import Prepared, distillation_lesson
from distill.training.loop import Lesson
from distill.training.processes import lengths_of, open_accelerator, shared_files

LENGTHS_OF = 20_000
"""Labelled texts whose tokens are counted, at most."""
MINILM_POSITIONS = 512
"""Tokens that `builtin:minilm` reads, at most: it learns from teachers that do not say how many they read."""


def fit_by_recipe(
    recipe: Recipe,
    teacher: AnyTeacher | Sequence[AnyTeacher] | Teacher,
    splits: Splits,
    *,
    out: Path | str,
    unlabeled: Iterable[TextInput] = (),
    options: RecipeOptions | None = None,
    assistants: Path | str | None = None,
    reporter: Reporter | None = None,
) -> Bundle:
    """Train a student by recipe, and first its assistants unless they are there.

    Args:
        recipe: One of `RECIPES`.
        teacher: As for `fit_student`.
        splits: Training, validation and test texts.
        out: Folder of the student's bundle; an interrupted run resumes there.
        unlabeled: Further texts to learn from; read once.
        options: Effort, seed, share of the training, other settings.
        assistants: Folder of the assistants' bundles, which several recipes may share. Default: `out` with "-assistants".
        reporter: Told of progress.

    Raises:
        PotstillError: As `fit_student`; or a change that contradicts the recipe.
    """
    options, reporter = options or RecipeOptions(), reporter or SilentReporter()
    folder = assistants_of(out) if assistants is None else Path(assistants)
    opened = open_teacher(teacher, device=options.device)
    require_writable(folder)
    with open_accelerator(options.device) as accelerator, shared_files(folder / ".unlabeled", accelerator) as files:
        further = files.texts("texts", unlabeled)
        return train_stages(
            recipe_stages(recipe, opened, splits, len(further), options, reporter),
            teacher=opened,
            splits=splits,
            unlabeled=further,
            out=Path(out),
            assistants=folder,
            reporter=reporter,
        )


def assistants_of(out: Path | str) -> Path:
    """Return the folder beside a bundle in which its assistants are kept."""
    folder = Path(out).resolve()
    return folder.with_name(f"{folder.name}-assistants")


def text_facts(teacher: Teacher, splits: Splits, num_unlabelled: int, *, base: Base) -> TextFacts:
    """Return what a recipe's settings depend on, of these texts, this teacher and what its students are made of."""
    reads = teacher.torch_member()
    return TextFacts(
        num_labelled=len(splits.train),
        num_unlabelled=num_unlabelled,
        token_lengths=lengths_of(base.tokenizer.encode(limited(splits.train, LENGTHS_OF, seed=0).texts)),
        max_length=MINILM_POSITIONS if reads is None else reads.tokenizer.max_length,
        answers_new_texts=not any(isinstance(member, RecordedLogits) for member in teacher.members),
    )


def recipe_stages(
    recipe: Recipe,
    teacher: Teacher,
    splits: Splits,
    num_unlabelled: int,
    options: RecipeOptions,
    reporter: Reporter,
) -> tuple[Stage, ...]:
    """Return a recipe's assistants and its student, with settings for these texts and this teacher, and report them."""
    base = base_of(teacher, splits.train.texts)
    facts = text_facts(teacher, splits, num_unlabelled, base=base)
    stages = stages_of(recipe, facts, options, base=base.source)
    student = stages[-1].settings
    truncated = float((np.asarray(facts.token_lengths) > (student.max_length or 0)).mean())
    reporter.say(f"{recipe.name} is made of {base.source or 'layers of the teacher'}: {base.reason}")
    reporter.say(
        f"{' -> '.join(stage.name for stage in stages)}: {student.augment} noisy copies of each text, {student.epochs} epochs, "
        f"max_length {student.max_length} (truncates {truncated:.1%} of the training texts)"
    )
    return stages


def train_stages(
    stages: Sequence[Stage],
    *,
    teacher: Teacher,
    splits: Splits,
    unlabeled: Sequence[TextInput],
    out: Path,
    assistants: Path,
    lesson_of: Callable[[Prepared], Lesson] = distillation_lesson,
    reporter: Reporter,
) -> Bundle:
    """Train the assistants that are not there, and then the student; each is made of the one before it.

    Args:
        stages: Assistants and the student, as `recipe_stages` returns them.
        teacher: The opened teacher.
        splits: Training, validation and test texts.
        unlabeled: Further texts.
        out: Folder of the student's bundle.
        assistants: Folder of the assistants' bundles.
        lesson_of: What every stage learns; the assistants of a control learn from the labels alone, too.
        reporter: Told of progress.
    """
    train = partial(train_student, teacher, splits, unlabeled=unlabeled, lesson_of=lesson_of, reporter=reporter)
    base = stages[0].settings.student
    if len(stages) > 1:
        learning = Learning(teacher, splits, unlabeled, reporter, lesson_of)
        base = str(train_once_each(stages[:-1], folder=assistants, learning=learning).path)
    return train(out=out, settings=stages[-1].settings.model_copy(update={"student": base}))


@dataclass(frozen=True)
class Learning:
    """What several students have in common: teacher, texts, and what they learn.

    Attributes:
        teacher: The opened teacher.
        splits: Training, validation and test texts.
        unlabeled: Further texts.
        reporter: Told of progress.
        lesson_of: What they learn.
    """

    teacher: Teacher
    splits: Splits
    unlabeled: Sequence[TextInput]
    reporter: Reporter
    lesson_of: Callable[[Prepared], Lesson] = distillation_lesson


def train_once_each(stages: Sequence[Stage], *, folder: Path, learning: Learning) -> Bundle:
    """Train each stage in a folder unless it is there, each made of the one before it; return the last."""
    decided_by = [*inputs_of(learning.teacher, learning.splits, learning.unlabeled), learning.lesson_of.__name__]
    train = partial(
        train_student,
        learning.teacher,
        learning.splits,
        unlabeled=learning.unlabeled,
        lesson_of=learning.lesson_of,
        reporter=learning.reporter,
    )
    kind = "" if learning.lesson_of is distillation_lesson else "control-"
    base = stages[0].settings.student
    for stage in stages:
        settings = stage.settings.model_copy(update={"student": base})
        name = f"{stage.name}-{kind}seed-{settings.seed}"
        made = trained_once(folder, name, settings=settings, decided_by=decided_by, train=train, reporter=learning.reporter)
        base = str(made.path)
    return made


def untrained_student(stages: Sequence[Stage], base: TorchClassifier, texts: Dataset) -> TorchClassifier:
    """Return a student with the shape of a recipe's, made directly of its base: what it takes is known before training.

    Args:
        stages: The recipe's stages.
        base: The teacher, or what the first stage names as `student`.
        texts: A sample of the training texts, which decide the vocabulary.
    """
    return new_student(base, stages[-1].settings.model_copy(update={"student": None}), train=texts, unlabeled=())
