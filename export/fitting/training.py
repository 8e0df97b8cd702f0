"""The trainings of `potstill fit`: the teacher, successive halving over the recipes, the control.

Every student learns from the same cached answers of the teacher. A training that is finished is not repeated.

out/teacher/                     the teacher, if it was fine-tuned here
out/tried/narrow-seed-0/              a student trained in full
out/tried/quarter/narrow-seed-0/      the same after a quarter of its training
out/tried/assistants/2-layers-seed-0/ what other students are made of; often trained less than the student of that name
out/tried/calibrated/narrow/          a student trained in full, its logits divided by one number
out/tried/control/                    the chosen student's shape, trained on the labels alone
out/tried/labels-100/control/         the same on 100 of them, if a language model is the teacher and there are human labels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from distill.bundle import Bundle
from distill.data import Splits, limited
from distill.errors import SettingsError
from distill.evaluation.scores import metric_words
from distill.models.loading import load_bundle
from distill.progress import Reporter
from distill.recipes import Stage
from distill.teacher_settings import TeacherSettings
from distill.training.by_recipe import Learning, train_once_each
from distill.training.fine_tuning import fit_teacher
from distill.training.finished import trained_once
from distill.training.lesson import Prepared, control_lesson
from distill.training.loop import Lesson
from export.fitting.choose import survivors
from export.fitting.plan import left_s
from export.fitting.scores import Scorer
from export.fitting.weighing import FEWEST_HALVED, RUNG_SHARE, Candidates

TRIED: Final = "tried"
TEACHER: Final = "teacher"
ASSISTANTS: Final = "assistants"
CALIBRATED: Final = "calibrated"
CONTROL_PATIENCE: Final = 4
SHARES_OF_LABELS: Final = (0.125, 0.25, 0.5)
"""Parts of the human labels that students learn from alone, beside a language model as teacher."""


def tuned_teacher(
    model: str, splits: Splits, settings: TeacherSettings, *, out: Path, name: str = TEACHER, reporter: Reporter
) -> Bundle:
    """Fine-tune an encoder, unless that was done before from the same texts and settings.

    Args:
        model: A folder, a hub id, `builtin:minilm` or `builtin:mpnet`.
        splits: The texts.
        settings: How it is fine-tuned.
        out: Folder of the run.
        name: Of the teacher's folder in it.
        reporter: Told of progress.
    """

    def train(*, out: Path, settings: TeacherSettings) -> Bundle:
        return fit_teacher(
            model, train=splits.train, validation=splits.validation, out=out, settings=settings, reporter=reporter
        )

    decided_by = [model, splits.train.fingerprint(), splits.validation.fingerprint()]
    return trained_once(out, name, settings=settings, decided_by=decided_by, train=train, reporter=reporter)


@dataclass(frozen=True)
class Round:
    """A student after a share of its training, and its validation score."""

    share: float
    bundle: Bundle
    score: float


def halved(
    candidates: Candidates,
    names: Sequence[str],
    learning: Learning,
    *,
    folder: Path,
    scorer: Scorer,
    halving: bool,
    told: Callable[[float], None],
) -> dict[str, list[Round]]:
    """Train the recipes by successive halving; return the rounds of each, those that survived with a last one in full.

    With three recipes or fewer a first round saves next to nothing, so all are trained in full.

    Args:
        candidates: The stages of each recipe; of equal scores the faster stays.
        names: The recipes to train.
        learning: Teacher and texts.
        folder: Where the students are kept.
        scorer: Scores on the validation texts.
        halving: Whether the weaker half is stopped.
        told: Called when a student is trained, with about how many seconds the others take.

    Raises:
        SettingsError: The teacher has too few layers for all of them.
    """
    rounds: dict[str, list[Round]] = {name: [] for name in names}
    names = _possible(candidates, names, learning)
    speeds = {form.recipe: form.costs.ms for form in candidates.forms}
    num_texts, chains = len(learning.splits.train) + len(learning.unlabeled), [candidates.stages[name] for name in names]
    if halving and len(names) >= FEWEST_HALVED:
        keep, parts = math.ceil(len(names) / 2), [candidates.in_part[name] for name in names]
        in_full = left_s(candidates, [chain[-1:] for chain in chains], num_texts) * keep / len(names)
        for count, name in enumerate(names, 1):
            made = _trained(candidates.in_part[name], learning, folder, folder / "quarter")
            rounds[name].append(_scored(name, made, RUNG_SHARE, learning, scorer))
            told(left_s(candidates, parts, num_texts, done=count) + in_full)
        scores = {name: rounds[name][-1].score for name in names}
        names = survivors(scores, speeds, keep=keep)
        chains = [candidates.stages[name] for name in names]
        learning.reporter.say(f"after a quarter of the training these go on: {', '.join(names)}")
    for count, (name, stages) in enumerate(zip(names, chains, strict=True), 1):
        is_assistant = stages[-1] in candidates.assistants()
        made = _trained(stages, learning, folder, folder / ASSISTANTS if is_assistant else folder)
        rounds[name].append(_scored(name, made, 1.0, learning, scorer))
        told(left_s(candidates, chains, num_texts, done=count))
    return rounds


def _possible(candidates: Candidates, names: Sequence[str], learning: Learning) -> list[str]:
    """Return the recipes that can be made of the teacher: a head on features keeps only the layers that it reads.

    Raises:
        SettingsError: None can.
    """
    possible = [name for name in names if is_possible(candidates, name, learning)]
    for name in names:
        if name not in possible:
            wanted = candidates.stages[name][0].settings.num_layers
            learning.reporter.say(f"{name} is left out: it is made of {wanted} layers, and the teacher has fewer")
    if not possible:
        raise SettingsError(f"the teacher has too few layers for {', '.join(names)}; name other --recipes")
    return possible


def is_possible(candidates: Candidates, name: str, learning: Learning) -> bool:
    """Return whether a recipe can be made of the teacher, which may have fewer layers than it takes."""
    first = candidates.stages[name][0].settings
    wanted = 0 if first.student is not None else first.num_layers or 0
    return not wanted or wanted <= learning.teacher.lender().model.config.num_hidden_layers


def _trained(stages: Sequence[Stage], learning: Learning, folder: Path, home: Path) -> Bundle:
    """Train a student in `home`; its assistants in a folder of their own and in full, since other students use them too."""
    *before, own = stages
    if before:
        learning.reporter.say(f"{own.name} starts from its assistants, trained first: {', '.join(one.name for one in before)}")
        made = train_once_each(before, folder=folder / ASSISTANTS, learning=learning)
        own = replace(own, settings=own.settings.model_copy(update={"student": str(made.path)}))
    return train_once_each((own,), folder=home, learning=learning)


def _scored(name: str, bundle: Bundle, share: float, learning: Learning, scorer: Scorer) -> Round:
    score = scorer.value(load_bundle(bundle).predict_logits(scorer.data.texts))
    learning.reporter.say(f"{name}, {share:.0%} of its training: validation {metric_words(scorer.metric)} {score:.4f}")
    return Round(share, bundle, score)


def control_of(stages: Sequence[Stage], learning: Learning, *, folder: Path) -> Bundle:
    """Train the control: a student of the same shape, made of the same base, that learns from the labels alone.

    It has no assistant, because that would have learnt from the teacher. It may take as many steps as the student, but stops
    when `CONTROL_PATIENCE` passes over the labels bring nothing better.
    """
    alone = replace(learning, unlabeled=(), lesson_of=_stopping_control_lesson)
    own = without_assistant(stages)
    own = replace(own, settings=own.settings.model_copy(update={"max_texts": None}))
    return train_once_each((own,), folder=folder / "control", learning=alone)


def without_assistant(stages: Sequence[Stage]) -> Stage:
    """Return the student of a recipe, made of what its first assistant is made of."""
    return replace(stages[-1], settings=stages[-1].settings.model_copy(update={"student": stages[0].settings.student}))


def controls_of_fewer(stages: Sequence[Stage], learning: Learning, *, folder: Path) -> dict[int, Bundle]:
    """Train the control on parts of the labels; return each by its number of labels."""
    train = learning.splits.train
    counts = sorted({max(len(train.labels), round(share * len(train))) for share in SHARES_OF_LABELS})
    return {
        count: control_of(
            stages,
            replace(learning, splits=replace(learning.splits, train=limited(train, count, seed=0))),
            folder=folder / f"labels-{count}",
        )
        for count in counts
    }


def _stopping_control_lesson(given: Prepared) -> Lesson:
    lesson = control_lesson(given)
    patience = min(lesson.settings.patience, CONTROL_PATIENCE)
    return replace(lesson, settings=lesson.settings.model_copy(update={"patience": patience}))
