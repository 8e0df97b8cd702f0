"""What a run works on: the texts, the opened teacher, the settings; and its plan, made before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from distill.asking.teaching import is_answers
from distill.bundle import Bundle
from distill.classifier import Classifier
from distill.data import Dataset, Splits, limited, texts_not_in
from distill.data.dataset import split_off
from distill.errors import SettingsError
from distill.evaluation.scores import metric_of
from distill.labels import require_single_label, task_of
from distill.models.loading import load_pretrained
from distill.models.torch_classifier import usable_positions
from distill.progress import Reporter
from distill.recipes import Effort
from distill.settings import UNSURE_WAYS
from distill.teacher_settings import TeacherSettings
from distill.teachers.answers import teacher_logits
from distill.teachers.defaults import DataShape, adapted
from distill.teachers.named import classifier_named
from distill.teachers.teacher import (
    Teacher,
    open_teacher,
    require_same_label_names,
    require_same_task,
    require_useful_teacher,
)
from distill.texts import TextInput
from distill.training.fine_tuning import MIN_TOKENS
from distill.training.lesson import of_one_kind
from distill.training.processes import lengths_of
from export.fitting.plan import Plan, planned_minutes, within_budget
from export.fitting.reporting.result import Budget
from export.fitting.scores import Scorer
from export.fitting.weighing import Candidates, recipes_of, weighed_forms
from export.settings import FitSettings, UnsureChoice

TEST_SHARE: Final = 0.15
FEWEST_FOR_A_TEST: Final = 600
"""Training texts from which a share is cut off to measure on, if no test texts are given."""
FEW_FOR_A_CHOICE: Final = 200
"""Validation texts below which the report warns that they choose by chance."""
FEW_OF_A_LABEL: Final = 20
"""Texts of a label, among those that choose or measure, below which the report warns that its recall is coarse."""
MEASURING: Final = "test texts measure the result"
MOST_TOKENS: Final = 512
LENGTHS_OF: Final = 2_000
EFFORTS: Final[tuple[Effort, ...]] = ("thorough", "standard", "quick")

FitTeacher = str | Path | Bundle | Classifier | Sequence[str | Path | Bundle | Classifier]
"""An encoder to fine-tune by name, a fine-tuned classifier to adopt, a bundle or its folder, any classifier, or several."""


@dataclass(frozen=True)
class Job:
    """What the stages share.

    Attributes:
        splits: The texts.
        unlabeled: Further texts.
        settings: Of the run; `effort` as the time limit allows.
        reporter: Told of progress.
        encoder: What is fine-tuned as the teacher; None if the teacher is given.
        teacher: The opened teacher; before it is fine-tuned, the encoder with a random head.
        answers: The `answers:FOLDER` among the teachers, if there is one.
    """

    splits: Splits
    unlabeled: tuple[TextInput, ...]
    settings: FitSettings
    reporter: Reporter
    encoder: str | None
    teacher: Teacher
    answers: str | None = None

    @property
    def budget(self) -> Budget:
        """What the student may cost."""
        return Budget(self.settings.max_ms, self.settings.max_mb, self.settings.min_kept)

    @property
    def measured(self) -> Dataset:
        """The texts that measure the result; they choose nothing if they are test texts."""
        return self.splits.test or self.splits.validation

    @property
    def has_human_labels(self) -> bool:
        """Whether a language model teaches, and there are labels that are not its answers."""
        return self.answers is not None and not is_answers(self.splits.train.source)

    @property
    def unsure(self) -> UnsureChoice:
        """What becomes of unsure answers; by default there is a choice if they are the only labels of some texts."""
        only_answers = self.answers is not None and (bool(self.unlabeled) or not self.has_human_labels)
        return self.settings.unsure or ("choose" if only_answers else "keep")

    @property
    def validation(self) -> Scorer:
        """Scores on the validation texts."""
        return Scorer(self.splits.validation, self.settings.metric)


def prepared(
    texts: Splits | Dataset,
    teacher: FitTeacher,
    unlabeled: Iterable[TextInput],
    settings: FitSettings,
    reporter: Reporter,
) -> Job:
    """Check the settings, open the teacher, adopt it if need be, and cut off test texts; nothing is trained.

    Raises:
        PotstillError: As `export.fitting.run.fit`.
    """
    splits = _with_test(_checked(texts))
    if settings.unsure not in (None, "keep"):
        require_single_label(splits.train.problem_type, f"--unsure {settings.unsure}")
    metric_of(settings.metric, labels=splits.train.labels, task=task_of(splits.train.problem_type))
    for note in splits.notes:
        reporter.say(note)
    held_out = [part for part in (splits.train, splits.validation, splits.test) if part is not None]
    further = tuple(texts_not_in(of_one_kind(unlabeled, splits.train), held_out))
    encoder, opened = _opened(teacher, splits, reporter)
    if encoder is None:
        splits = _judged(opened, splits, reporter)  # before anything takes time
    answers = next((str(one) for one in _each(teacher) if is_answers(one)), None)
    return Job(splits, further, settings, reporter, encoder, opened, answers)


def _checked(texts: Splits | Dataset) -> Splits:
    """Return disjoint splits, with a warning if the validation texts are few, or those of a label."""
    splits = Splits.of(texts) if isinstance(texts, Dataset) else Splits.of(texts.train, texts.validation, texts.test)
    validation = _with_rarest(splits.validation, "validation texts choose the student", fewest=FEW_FOR_A_CHOICE)
    return replace(splits, validation=validation)


def _with_rarest(data: Dataset, role: str, *, fewest: int = 0) -> Dataset:
    """Return the texts, with a note on the weight of one text if there are few of a label, or fewer than `fewest` in all."""
    label, count = min(data.counts.items(), key=lambda each: each[1])
    if count >= FEW_OF_A_LABEL and len(data) >= fewest:
        return data
    weight = f"one is {1 / count:.1%} of its recall" if count else "its recall is unknown"
    return _noted(data, f"the {len(data):,} {role}, and {count} of them have the rarest label {label!r}: {weight}")


def _noted(data: Dataset, note: str) -> Dataset:
    return replace(data, notes=(*data.notes, note))


def _with_test(splits: Splits) -> Splits:
    """Cut test texts off a large training set that has none of its own; of a small one, the validation texts measure."""
    train = splits.train
    if splits.test is not None:
        return replace(splits, test=_with_rarest(splits.test, MEASURING))
    if len(train) < FEWEST_FOR_A_TEST or min(train.counts.values()) < 2:
        note = "no --test texts, and too few training texts to cut some off: the validation texts choose and measure"
        return replace(splits, train=_noted(train, note))
    train, test = split_off(train, count=round(TEST_SHARE * len(train)), seed=0, name="test")
    note = f"{len(test):,} of the training texts are cut off as test texts; give others with --test"
    return replace(splits, train=_noted(train, note), test=_with_rarest(test, MEASURING))


def _each(teacher: FitTeacher) -> Sequence[str | Path | Bundle | Classifier]:
    return teacher if isinstance(teacher, Sequence) and not isinstance(teacher, str) else (teacher,)


def _opened(teacher: FitTeacher, splits: Splits, reporter: Reporter) -> tuple[str | None, Teacher]:
    """Return the encoder to fine-tune, if any, and the opened teacher; an encoder has a random head."""
    given = _each(teacher)
    members: list[Bundle | Classifier] = []
    for one in given:
        if not isinstance(one, str | Path):
            members.append(one)
            continue
        found = classifier_named(one, labelled=splits.validation, reporter=reporter)
        if found is None and len(given) > 1:
            raise SettingsError(
                f"{one} is an encoder, and only one can be fine-tuned: name it alone, or fine-tune each with "
                "`potstill teacher` and name the bundles"
            )
        if found is None:
            return str(one), _untrained(str(one), splits.train)
        members.append(found)
    return None, open_teacher(members, device="auto")


def _judged(teacher: Teacher, splits: Splits, reporter: Reporter) -> Splits:
    """Return the splits with their labels in the teacher's order; refuse a teacher that is no use, whose answers are kept."""
    labels, (train, validation, test) = teacher.asked.labels, (splits.train, splits.validation, splits.test)
    if sorted(labels) != sorted(train.labels):
        require_same_label_names(labels, train.labels)
    require_same_task(teacher.asked.problem_type, train.problem_type)
    validation = validation.in_order(labels)
    logits = teacher_logits(teacher.asked, validation.texts, reporter=reporter).logits
    require_useful_teacher(logits=logits, label_ids=validation.label_ids, labels=labels)
    return Splits(train.in_order(labels), validation, test and test.in_order(labels))


def _untrained(source: str, train: Dataset) -> Teacher:
    labels, task = train.labels, train.problem_type
    model = load_pretrained(source, labels=labels, max_length=MIN_TOKENS, seed=0, problem_type=task)
    longest = int(min(usable_positions(model.model.config), MOST_TOKENS))
    model = replace(model, tokenizer=model.tokenizer.with_max_length(longest))
    return open_teacher(model.reading_pairs() if train.is_pairs else model, device="auto")


def teacher_settings(settings: FitSettings) -> TeacherSettings:
    """Return how the teacher of a run is fine-tuned."""
    return TeacherSettings(effort=settings.effort, seed=settings.seed)


def _epochs(teacher: Teacher, train: Dataset, settings: TeacherSettings) -> int:
    """Return how many epochs the teacher will be fine-tuned for, at most."""
    model = teacher.lender()
    unlimited = model.tokenizer.with_max_length(1_000_000)
    shape = DataShape(
        num_texts=len(train),
        label_counts=tuple(train.counts.values()),
        token_lengths=lengths_of(unlimited.encode(limited(train, LENGTHS_OF, seed=0).texts)),
        max_length=model.tokenizer.max_length,
        several_labels=train.problem_type == "multi_label_classification",
    )
    return adapted(settings, shape).epochs


def _with_length(job: Job, candidates: Candidates) -> Splits:
    """Return the splits with a note on how many texts the students cut, if any."""
    if not candidates.truncated:
        return job.splits
    note = f"students read {candidates.max_length} tokens, which cuts {candidates.truncated:.1%} of the training texts"
    job.reporter.say(note)
    return replace(job.splits, train=_noted(job.splits.train, note))


def planned(job: Job, out: Path | None = None) -> tuple[Job, Plan]:
    """Weigh the forms; with a time limit, lower the effort until the plan keeps it.

    Args:
        job: The run.
        out: Its folder, in which the measured costs are kept; None keeps nothing.

    Raises:
        SettingsError: No effort keeps the time limit, or no recipe can be made of the teacher.
    """
    limit, train = job.settings.time_limit_min, job.splits.train
    for effort in EFFORTS[EFFORTS.index(job.settings.effort) :]:
        settings = job.settings.model_copy(update={"effort": effort})
        candidates = weighed_forms(
            job.teacher,
            job.splits,
            num_unlabelled=len(job.unlabeled),
            settings=settings,
            kept=None if out is None else out / f"weighed-{effort}.json",
            reporter=job.reporter,
        )
        minutes = planned_minutes(
            candidates,
            recipes_of(within_budget(candidates, job.budget)),
            effort=effort,
            num_texts=len(job.splits.train) + len(job.unlabeled),
            teacher_views=0 if job.encoder is None else _epochs(job.teacher, train, teacher_settings(settings)) * len(train),
            halving=not settings.train_all,
            ways=len(UNSURE_WAYS) if job.unsure == "choose" else 0,
        )
        plan = Plan(candidates, job.budget, minutes, effort)
        if limit is None or plan.total_min <= limit:
            return replace(job, settings=settings, splits=_with_length(job, candidates)), plan
        job.reporter.say(f"--effort {effort} would take about {plan.total_min:.0f} minutes, more than {limit:g}")
    raise SettingsError(
        f"even --effort quick would take about {plan.total_min:.0f} minutes, more than --time-limit-min {limit:g}; "
        "raise the limit, or name fewer --recipes"
    )
