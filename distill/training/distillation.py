"""The two jobs a user asks for: fine-tune a teacher, teach a student. Both end in a bundle."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill.bundle import Bundle
from distill.classifier import Classifier, mean_logits
from distill.data import Dataset
from distill.errors import SettingsError
from distill.labels import Logits, ProblemType, task_of
from distill.losses.objective import distillation_objective, fine_tuning_objective
from distill.models.devices import Compute, using_threads
from distill.models.families import set_dropout
from distill.models.torch_classifier import TorchClassifier, require_max_length
from distill.progress import Reporter, SilentReporter
from distill.settings import DistillSettings
from distill.storage import require_writable
from distill.students.build import build_student, load_student
from distill.teachers.scored import with_scored
from distill.teachers.teacher import (
    AnyTeacher,
    Teacher,
    open_teacher,
    require_same_label_names,
    require_same_task,
    require_useful_teacher,
)
from distill.training.augmentation import augmented_texts
from distill.training.lesson import TransferSet, keep_sure
from distill.training.loop import Examples
from distill.training.rounding import rounded_products
from distill.training.sealing import Carried, accelerator_of, say_truncated, train_and_seal
from distill.training.shared_files import TRANSFER, SharedFiles, logits_together, shared_files

logger = logging.getLogger(__name__)

ONE_HOT_SAMPLE = 10_000


def fit_student(
    teacher: AnyTeacher | Sequence[AnyTeacher],
    *,
    train: Dataset,
    validation: Dataset,
    out: Path | str,
    unlabeled: Iterable[str] = (),
    scored: Sequence[Path | str] = (),
    test: Dataset | None = None,
    settings: DistillSettings | None = None,
    control: bool = False,
    reporter: Reporter | None = None,
) -> Bundle:
    """Make a student of the teacher's layers, or take another model, teach it, and seal it as a bundle.

    Args:
        teacher: The teacher's bundle, or any classifier. Of several the logits are averaged; the first that is a PyTorch
            model lends its layers.
        train: Texts to learn from, with the teacher's label names.
        validation: Texts that choose the epoch whose weights are kept, and prove the teacher.
        out: The bundle's folder; an interrupted run goes on from its last checkpoint there.
        unlabeled: Further texts to learn from, by the teacher's word alone; read once, one at a time, into a file. Any
            that also stand in `validation` or `test` are left out.
        scored: Folders that `potstill score --logits` has filled with a teacher's answers, which is then not asked for these
            texts; one a teacher.
        test: Texts that will measure the student: nothing is learnt from them, and no augmented text equals one.
        settings: Layers, temperature, weights, rate. With `soft_weight` 0 and no `losses` the teacher only lends its
            layers: that is the control without distillation.
        control: Train the control of that student: made in the same way, for at least as many steps, but from the
            labels alone. Unlabelled and augmented texts then only count towards the steps.
        reporter: Told of progress.

    Raises:
        TeacherError: The teacher is not worth learning from.
        SettingsError: Settings that cannot be honoured.
        StorageError: `out` cannot be written.
    """
    settings = settings or DistillSettings()
    reporter = reporter or SilentReporter()
    require_writable(Path(out))
    accelerator = accelerator_of(settings, out)
    reporter = reporter if accelerator.is_main_process else SilentReporter()
    _require_other_folder(teacher, settings.student, Path(out))
    several = tuple(teacher) if isinstance(teacher, Sequence) else (teacher,)
    opened = open_teacher(several, device=settings.device)
    for data in (train, validation):
        require_same_label_names(opened.asked.labels, data.labels)
        require_same_task(opened.asked.problem_type, data.problem_type)
    held_out = (validation,) if test is None else (validation, test)
    base = _student_base(opened, settings)
    with using_threads(), shared_files(Path(out) / TRANSFER, accelerator) as files:
        opened = with_scored(opened, several, tuple(map(Path, scored)), made=files.made, reporter=reporter)
        transfer = TransferSet.gather(train, unlabeled, held_out=held_out, files=files)
        if not settings.asks_teacher and (len(transfer.unlabeled) or settings.augment):
            raise SettingsError(
                "with soft_weight 0 nothing is learnt from the teacher, so unlabelled and augmented texts cannot be used; "
                "raise --soft-weight, or name --losses"
            )
        # Before the teacher is asked, which takes minutes: settings that cannot be honoured are found in the first second.
        student = _new_student(base, settings, labelled=train.texts, unlabeled=transfer.unlabeled)
        if settings.quantization_aware_epochs:
            rounded_products(student)
        objective = distillation_objective(settings, student=student, teacher=opened.torch_member(), label_ids=train.label_ids)
        say_truncated(student, train, reporter)
        on_validation = _proven_logits(opened, validation, files, reporter)
        transfer = keep_sure(opened, transfer, settings, compute=accelerator.mixed_precision, reporter=reporter)
        copies = augmented_texts(
            opened.torch_member() or base,
            student,
            labelled=train.texts,
            unlabeled=transfer.unlabeled,
            held_out=held_out,
            settings=settings,
        )
        learnt = transfer.with_augmented(copies)
        if control:
            settings = control_settings(settings, num_texts=len(learnt), num_labelled=len(train))
            objective = fine_tuning_objective(settings, student=student, label_ids=train.label_ids)
            learnt = learnt.labels_alone()
        examples = Examples(
            rows=learnt.rows(student.tokenizer),
            label_ids=learnt.label_ids(),
            teacher_logits=_soft_targets(opened.asked, learnt, settings, accelerator.mixed_precision, reporter),
            weights=learnt.weights(settings),
        )
        return train_and_seal(
            student,
            role="student",
            examples=examples,
            unlabeled=transfer.unlabeled,
            train=train,
            validation=validation,
            objective=objective,
            settings=settings,
            accelerator=accelerator,
            out=Path(out),
            teachers=opened.names,
            validation_teacher_logits=on_validation,
            reporter=reporter,
            carried=Carried(said=opened.digest()),
        )


def control_settings(settings: DistillSettings, *, num_texts: int, num_labelled: int) -> DistillSettings:
    """Return the settings of a student's control: the labels alone, and enough epochs of them for at least as many steps.

    Args:
        settings: The student's.
        num_texts: How many texts the student learns from.
        num_labelled: How many of them have a label.
    """
    share = num_texts / num_labelled
    return settings.model_copy(
        update={
            "soft_weight": 0.0,
            "losses": (),
            "augment": 0,
            "epochs": math.ceil(settings.epochs * share),
            "patience": math.ceil(settings.patience * share),
        }
    )


def _student_base(teacher: Teacher, settings: DistillSettings) -> TorchClassifier:
    """Return the model that the student is made of."""
    if settings.student is None:
        return teacher.lender()
    return load_student(settings.student, settings, teacher=teacher.torch_member() or teacher.asked)


def _new_student(
    base: TorchClassifier, settings: DistillSettings, *, labelled: Sequence[str], unlabeled: Sequence[str]
) -> TorchClassifier:
    if settings.max_length is not None:
        require_max_length(base.model.config, settings.max_length)
        base = replace(base, tokenizer=base.tokenizer.with_max_length(settings.max_length))
    student = build_student(
        base, settings, labelled=labelled, unlabeled=unlabeled, whole=settings.student is not None, seed=settings.seed
    )
    set_dropout(student.model, settings.dropout)
    return student


def _require_other_folder(teacher: AnyTeacher | Sequence[AnyTeacher], student: str | None, out: Path) -> None:
    if student is not None and out.resolve() == Path(student).resolve():
        raise SettingsError(f"the student would replace the model it is made of in {out}; name another folder with --out")
    for one in teacher if isinstance(teacher, Sequence) else (teacher,):
        if isinstance(one, Bundle) and out.resolve() == one.path.resolve():
            raise SettingsError(f"the student would replace its teacher in {out}; name another folder with --out")


def _proven_logits(teacher: Teacher, validation: Dataset, files: SharedFiles, reporter: Reporter) -> Logits:
    """Return the teacher's logits of the validation texts, on which each member must have shown that it can teach."""
    answers = [
        logits_together(member, validation.texts, files=files, name=f"validation-{number}", reporter=reporter).logits
        for number, member in enumerate(teacher.members)
    ]
    for logits in answers:
        require_useful_teacher(logits=logits, label_ids=validation.label_ids, labels=teacher.asked.labels)
    return mean_logits(answers)


def _soft_targets(
    teacher: Classifier, transfer: TransferSet, settings: DistillSettings, compute: Compute, reporter: Reporter
) -> Logits | None:
    if not settings.asks_teacher:
        return None
    soft = logits_together(
        teacher, transfer.texts, files=transfer.files, name="teacher_logits", compute=compute, reporter=reporter
    )
    reporter.say(f"teacher logits: {soft.num_cached} of {len(transfer)} texts were in the cache")
    _warn_if_one_hot(soft.logits[:: 1 + len(transfer) // ONE_HOT_SAMPLE], settings.temperature, teacher.problem_type)
    return soft.logits


def _warn_if_one_hot(logits: Logits, temperature: float, problem_type: ProblemType) -> None:
    """Soft targets that are one-hot teach what the hard labels already say."""
    if np.median(task_of(problem_type).confidences(logits / temperature)) > 1 - 1e-4:
        logger.warning(
            "at temperature %g the softened targets are one-hot to within 1e-4 on most texts, so they teach no more than "
            "the labels; raise --temperature",
            temperature,
        )
