"""Distilling a student into a bundle, the job of `potstill distill`.

`distill.training.trials` does it over several seeds and beside a control, `distill.training.by_recipe` with assistants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from distill.bundle import Bundle
from distill.classifier import mean_logits
from distill.data import Dataset, Splits, fingerprint
from distill.errors import SettingsError
from distill.labels import Logits, require_single_label
from distill.losses.objective import distillation_objective
from distill.manifest import Lineage
from distill.models.families import set_dropout
from distill.models.torch_classifier import TorchClassifier, require_max_length
from distill.progress import Reporter
from distill.settings import DistillSettings
from distill.students.build import build_student, load_student
from distill.teachers.teacher import (
    AnyTeacher,
    Teacher,
    open_teacher,
    require_same_label_names,
    require_same_task,
    require_useful_teacher,
)
from distill.texts import TextInput
from distill.training.augmentation import augmented_texts
from distill.training.lesson import Prepared, TransferSet, distillation_lesson, keep_confident
from distill.training.loop import Lesson
from distill.training.pace import say_training
from distill.training.processes import logits_together
from distill.training.rounding import rounded_layers, rounding
from distill.training.sealing import (
    ROUNDING_CHECKPOINT,
    Outcome,
    TrainingRun,
    learn,
    quality_of,
    report_truncated,
    seal,
    training_run,
)

ROUNDING_RATE_SHARE = 0.1
"""Share of the peak learning rate in the phase with rounding: trained weights only need to adapt to it."""


def fit_student(
    teacher: AnyTeacher | Sequence[AnyTeacher] | Teacher,
    *,
    train: Dataset,
    validation: Dataset,
    out: Path | str,
    unlabeled: Iterable[TextInput] = (),
    test: Dataset | None = None,
    settings: DistillSettings | None = None,
    reporter: Reporter | None = None,
) -> Bundle:
    """Build a student from the teacher's layers or from another model, teach it, and seal it as a bundle.

    Args:
        teacher: The teacher's bundle, or any classifier. The logits of several are averaged; the first that is a PyTorch
            model supplies the layers. Or an opened `Teacher`, such as one with recorded answers; see `with_scored`.
        train: Labelled texts to learn from, with the teacher's label names.
        validation: Texts that choose the best epoch, and prove the teacher.
        out: The bundle's folder; an interrupted run resumes from its last checkpoint there.
        unlabeled: Further texts to learn from, with the teacher's logits only; read once, one at a time. Texts that are
            also in `validation` or `test` are left out.
        test: Texts that will measure the student: nothing is learnt from them, and no augmented text equals one.
        settings: Layers, temperature, weights, rate. With `soft_weight` 0 and no `losses` the teacher only supplies its
            layers, and the student learns from the labels alone.
        reporter: Told of progress.

    Raises:
        TeacherError: The teacher is not worth learning from.
        SettingsError: Settings that cannot be honoured.
        StorageError: `out` cannot be written.
    """
    splits, settings = Splits(train, validation, test), settings or DistillSettings()
    return train_student(teacher, splits, unlabeled=unlabeled, out=out, settings=settings, reporter=reporter)


def train_student(
    teacher: AnyTeacher | Sequence[AnyTeacher] | Teacher,
    splits: Splits,
    *,
    unlabeled: Iterable[TextInput],
    out: Path | str,
    settings: DistillSettings,
    lesson_of: Callable[[Prepared], Lesson] = distillation_lesson,
    reporter: Reporter | None,
) -> Bundle:
    """Gather texts, build the student, prove and ask the teacher, train, seal; see `fit_student`.

    Args:
        teacher: As there.
        splits: Training, validation and test texts.
        unlabeled: As there.
        out: As there.
        settings: Of the student.
        lesson_of: What the student learns: `distillation_lesson`, or `control_lesson` for its control.
        reporter: Told of progress.
    """
    train, validation = splits.train, splits.validation
    held_out = tuple(data for data in (validation, splits.test) if data is not None)
    with training_run(out, settings, reporter) as run:
        opened = open_teacher(teacher, device=settings.device)
        _require_other_folder(opened, settings.student, run.out)
        for data in (train, validation):
            require_same_label_names(opened.asked.labels, data.labels)
            require_same_task(opened.asked.problem_type, data.problem_type)
        model = opened.torch_member()
        base = load_student(settings.student, settings, teacher=model or opened.asked) if settings.student else opened.lender()
        transfer = TransferSet.gather(train, unlabeled, held_out=held_out, max_texts=settings.max_texts, files=run.files)
        _require_answers_used(settings, transfer, opened)
        # Before the teacher is run, which takes minutes: settings that cannot be honoured fail in the first seconds.
        student = new_student(base, settings, train=transfer.labelled, unlabeled=transfer.unlabeled)
        objective = distillation_objective(settings, student=student, teacher=model, label_ids=train.label_ids)
        report_truncated(student, train, run.reporter)
        on_validation = _proven_logits(opened, validation, run)
        transfer = keep_confident(opened, transfer, settings, run)
        lineage = Lineage(
            base_model=student.origin,
            teacher_sha256=opened.names[0],
            ensemble=opened.names if len(opened.names) > 1 else (),
            train_fingerprint=train.fingerprint(),
            validation_fingerprint=validation.fingerprint(),
            unlabeled_fingerprint=fingerprint(transfer.unlabeled) if len(transfer.unlabeled) else None,
            seed=settings.seed,
        )
        copies = augmented_texts(model or base, student, transfer, held_out=held_out, settings=settings)
        transfer = replace(transfer, augmented=run.files.texts("augmented", copies))
        lesson = lesson_of(Prepared(student, opened.asked, objective, transfer, validation, settings, run))
        outcome = _taught(student, lesson, run, lineage, identity=opened.digest(), calibration=train)
        logits = student.predict_logits(validation.texts)
        quality = quality_of(student, validation, logits, split="validation", teacher_logits=on_validation)
        outcome = replace(outcome, quality={"pytorch": quality})
        return seal(student, replace(run, settings=lesson.settings), role="student", lineage=lineage, outcome=outcome)


def _require_answers_used(settings: DistillSettings, transfer: TransferSet, teacher: Teacher) -> None:
    if settings.unsure != "keep":
        require_single_label(teacher.asked.problem_type, f"--unsure {settings.unsure}")
    if not settings.asks_teacher and (len(transfer.unlabeled) or settings.augment or settings.unsure != "keep"):
        raise SettingsError(
            "with soft_weight 0 nothing is learnt from the teacher, so unlabelled and augmented texts and --unsure cannot be "
            "used; raise --soft-weight, or name --losses"
        )


def _require_other_folder(teacher: Teacher, student: str | None, out: Path) -> None:
    if student is not None and out.resolve() == Path(student).resolve():
        raise SettingsError(f"the student would replace the model it is made of in {out}; name another folder with --out")
    if out.resolve() in [folder.resolve() for folder in teacher.folders if folder is not None]:
        raise SettingsError(f"the student would replace its teacher in {out}; name another folder with --out")


def new_student(
    base: TorchClassifier, settings: DistillSettings, *, train: Dataset, unlabeled: Sequence[TextInput]
) -> TorchClassifier:
    """Return the untrained student, made of a base model."""
    if train.is_pairs:
        base = base.reading_pairs()
    if settings.max_length is not None:
        require_max_length(base.model.config, settings.max_length)
        base = replace(base, tokenizer=base.tokenizer.with_max_length(settings.max_length))
    student = build_student(
        base, settings, labelled=train.texts, unlabeled=unlabeled, whole=settings.student is not None, seed=settings.seed
    )
    if train.is_pairs:
        student = student.reading_pairs()  # a static one has no token types
    set_dropout(student.model, settings.dropout)
    if settings.quantization_aware_epochs:
        rounded_layers(student)  # refuses a student that the int8 phase does not support
    return student


def _proven_logits(teacher: Teacher, validation: Dataset, run: TrainingRun) -> Logits:
    """Return the teacher's logits of the validation texts, after each member has passed the teacher's gate on them."""
    answers = [
        logits_together(member, validation.texts, files=run.files, name=f"validation-{number}", reporter=run.reporter).logits
        for number, member in enumerate(teacher.members)
    ]
    for logits in answers:
        require_useful_teacher(logits=logits, label_ids=validation.label_ids, labels=teacher.asked.labels)
    return mean_logits(answers)


def _taught(
    student: TorchClassifier, lesson: Lesson, run: TrainingRun, lineage: Lineage, *, identity: str, calibration: Dataset
) -> Outcome:
    """Train the student, and then with the rounding of its int8 graph if the settings ask for it."""
    settings = lesson.settings
    views, compute = settings.epochs * len(lesson.examples.rows), run.accelerator.mixed_precision
    say_training(student, calibration.texts, title=lesson.title, views=views, compute=compute, reporter=run.reporter)
    history = learn(student, lesson, run, lineage=lineage, identity=identity)
    if not isinstance(settings, DistillSettings) or not settings.quantization_aware_epochs:
        return Outcome({}, history)
    rate = settings.learning_rate * ROUNDING_RATE_SHARE
    settings = settings.model_copy(update={"epochs": settings.quantization_aware_epochs, "learning_rate": rate})
    phase = replace(lesson, title=f"{lesson.title} with rounding", settings=settings)
    with rounding(student, calibration.texts) as scales:
        further = learn(student, phase, run, lineage=lineage, checkpoint=ROUNDING_CHECKPOINT, identity=identity)
    history += tuple(replace(epoch, epoch=len(history) + epoch.epoch) for epoch in further)
    learned = {name: (scale, "quantization-aware distillation") for name, scale in scales.items()}
    return Outcome({}, history, scales=learned)
