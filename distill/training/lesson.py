"""What a student learns from: its transfer set, and the lesson made of it with or without the teacher.

Texts, token ids and the teacher's logits are kept in memory-mapped files, so a million unlabelled texts do not grow
the process: the first process of a run writes them once, and all map them. Only the labelled texts are in memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distill.classifier import Classifier, mean_logits
from distill.data import Dataset, limited, texts_not_in
from distill.data.dataset import JoinedTexts
from distill.errors import SettingsError
from distill.labels import Logits, ProblemType, task_of
from distill.losses.objective import Objective, fine_tuning_objective
from distill.losses.term import UNLABELLED
from distill.models.torch_classifier import TorchClassifier
from distill.settings import DistillSettings, TransferSetSettings
from distill.teachers.teacher import Teacher
from distill.texts import TextInput
from distill.training.certainty import certainty_weights
from distill.training.loop import Examples, Lesson
from distill.training.pace import say_answers
from distill.training.processes import SharedFiles, logits_together
from distill.training.sealing import TrainingRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TransferSet:
    """The texts that a student learns from, in this order.

    Attributes:
        labelled: Texts with labels.
        unlabeled: Texts without, none of which is labelled or held out, none twice.
        augmented: Noisy copies of both.
    """

    labelled: Dataset
    unlabeled: Sequence[TextInput]
    augmented: Sequence[TextInput] = ()

    @classmethod
    def gather(
        cls,
        labelled: Dataset,
        unlabeled: Iterable[TextInput],
        *,
        held_out: Sequence[Dataset],
        max_texts: int | None = None,
        files: SharedFiles,
    ) -> TransferSet:
        """Write the unlabelled texts to a file, one at a time, without duplicates and labelled or held-out texts.

        With `max_texts`, keep a sample of that many texts, labelled ones first. A smaller sample is part of a larger one.
        """
        alike = of_one_kind(unlabeled, labelled)
        others: Sequence[TextInput] = files.texts("unlabeled", texts_not_in(alike, (labelled, *held_out)))
        if max_texts is not None and len(labelled) + len(others) > max_texts:
            labelled = limited(labelled, max_texts, seed=0)
            drawn = np.random.default_rng(0).permutation(len(others))[: max_texts - len(labelled)]
            others = files.texts("sampled", (others[int(place)] for place in np.sort(drawn)))
        return cls(labelled, others)

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabeled) + len(self.augmented)

    @property
    def texts(self) -> Sequence[TextInput]:
        """All texts."""
        return JoinedTexts(self.labelled.texts, self.unlabeled, self.augmented)

    def weights(self, settings: TransferSetSettings) -> NDArray[np.float32] | None:
        """Return the weight of each text in the loss, shape (texts,); None where all are 1."""
        counts = len(self.labelled), len(self.unlabeled), len(self.augmented)
        weights = settings.labelled_weight, settings.unlabeled_weight, settings.augmented_weight
        return None if set(weights) == {1} else np.repeat(np.array(weights, dtype=np.float32), counts)


def of_one_kind(texts: Iterable[TextInput], labelled: Dataset) -> Iterator[TextInput]:
    """Yield the texts; raise `SettingsError` at a single text where the labelled ones are pairs, or the reverse."""
    for number, text in enumerate(texts, start=1):
        if isinstance(text, tuple) != labelled.is_pairs:
            kinds = ("single texts", "pairs") if labelled.is_pairs else ("pairs", "single texts")
            raise SettingsError(
                f"unlabelled text {number} is one of {kinds[0]}, but the labelled ones are {kinds[1]}; use texts of one kind"
            )
        yield text


def keep_confident(teacher: Teacher, transfer: TransferSet, settings: DistillSettings, run: TrainingRun) -> TransferSet:
    """Return the transfer set without the unlabelled texts that its teachers are unsure of, as the settings ask.

    Raises:
        SettingsError: Teachers are to agree, and there is one; or no text passes.
    """
    texts = transfer.unlabeled
    if not len(texts) or not (settings.unlabeled_confidence or settings.unlabeled_agreed):
        return transfer
    if settings.unlabeled_agreed and len(teacher.members) == 1:
        raise SettingsError("unlabeled_agreed compares several teachers, and there is one; name more, or leave it out")
    answers = [
        logits_together(
            member,
            texts,
            files=run.files,
            name=f"unlabeled-{number}",
            compute=run.accelerator.mixed_precision,
            reporter=run.reporter,
        ).logits
        for number, member in enumerate(teacher.members)
    ]
    passed = confident(
        answers,
        problem_type=teacher.asked.problem_type,
        min_confidence=settings.unlabeled_confidence,
        agreed=settings.unlabeled_agreed,
        temperature=settings.unlabeled_temperature,
    )
    if not passed.any():
        raise SettingsError(
            f"the teachers are sure of none of the {len(passed)} unlabelled texts; lower --unlabeled-confidence"
        )
    run.reporter.say(f"unlabelled texts: {int(passed.sum())} of {len(passed)} are kept, the teachers are sure of them")
    kept: Iterator[TextInput] = (text for text, sure in zip(texts, passed, strict=True) if sure)
    return replace(transfer, unlabeled=run.files.texts("kept", kept))


def confident(
    answers: Sequence[Logits],
    *,
    problem_type: ProblemType,
    min_confidence: float,
    agreed: bool,
    temperature: float = 1.0,
) -> NDArray[np.bool_]:
    """Return which texts pass, shape (texts,).

    Args:
        answers: Logits of each teacher, shape (texts, labels) each.
        problem_type: How logits become probabilities.
        min_confidence: Smallest probability of the predicted label, by the mean of the logits; where a text may have
            several labels, of the least certain of its decisions.
        agreed: Pass only texts to which every teacher gives the same labels.
        temperature: Divides the logits before the softmax; above 1 for overconfident teachers.
    """
    task = task_of(problem_type)
    confidences = task.confidences(mean_logits(answers) / np.float32(temperature))
    passed: NDArray[np.bool_] = confidences.min(axis=1) >= min_confidence
    if agreed:
        given = np.stack([task.chosen_labels(logits) for logits in answers])
        passed = passed & (given == given[0]).all(axis=(0, 2))
    return passed


@dataclass(frozen=True)
class Prepared:
    """Everything that a lesson is made of.

    Attributes:
        student: The model that learns.
        teacher: The classifier whose logits are learnt.
        objective: The distillation loss.
        transfer: The texts to learn from.
        validation: The texts that choose the epoch.
        settings: The student's.
        run: Where it is trained.
    """

    student: TorchClassifier
    teacher: Classifier
    objective: Objective
    transfer: TransferSet
    validation: Dataset
    settings: DistillSettings
    run: TrainingRun

    @property
    def held_out(self) -> Examples:
        """The tokenized validation texts."""
        return Examples(self.student.tokenizer.encode(self.validation.texts), self.validation.label_ids)


def distillation_lesson(given: Prepared) -> Lesson:
    """Return the lesson of a student: all texts, with the teacher's logits as soft targets.

    The teacher is not run where the settings give it no weight.
    """
    settings, transfer, run = given.settings, given.transfer, given.run
    soft = None
    if settings.asks_teacher:
        compute = run.accelerator.mixed_precision
        if isinstance(given.teacher, TorchClassifier):
            say_answers(given.teacher, transfer.labelled.texts, count=len(transfer), compute=compute, reporter=run.reporter)
        found = logits_together(
            given.teacher,
            transfer.texts,
            files=run.files,
            name="teacher_logits",
            compute=compute,
            reporter=run.reporter,
        )
        run.reporter.say(f"teacher logits: {found.num_cached} of {len(transfer)} texts were in the cache")
        soft = found.logits
        _warn_if_one_hot(soft[:: 1 + len(soft) // ONE_HOT_SAMPLE], settings.temperature, given.teacher.problem_type)
    known = transfer.labelled.label_ids
    unknown = np.full((len(transfer) - len(known), *known.shape[1:]), UNLABELLED, dtype=known.dtype)
    examples = Examples(
        rows=run.files.rows("rows", transfer.texts, given.student.tokenizer),
        label_ids=run.files.array("label_ids", lambda: np.concatenate([known, unknown])),
        teacher_logits=soft,
        weights=transfer.weights(settings) if soft is None else _weights(transfer, soft, settings),
    )
    return Lesson("student", examples, given.held_out, given.objective, settings)


def _weights(transfer: TransferSet, teacher_logits: Logits, settings: DistillSettings) -> NDArray[np.float32] | None:
    """Return the weight of each text: that of its source, times that of its answer if the answer alone says its label."""
    of_source = transfer.weights(settings)
    if settings.unsure == "keep":
        return of_source
    first = len(transfer.labelled) if settings.soft_weight < 1 else 0
    weights = np.ones(len(transfer), dtype=np.float32)
    weights[first:] = certainty_weights(teacher_logits[first:], settings.unsure)
    return weights if of_source is None else weights * of_source


def control_lesson(given: Prepared) -> Lesson:
    """Return the lesson of a student's control: the labels alone, for at least as many steps as the student takes."""
    labelled = given.transfer.labelled
    settings = control_settings(given.settings, num_texts=len(given.transfer), num_labelled=len(labelled))
    examples = Examples(
        rows=given.run.files.rows("rows", labelled.texts, given.student.tokenizer),
        label_ids=labelled.label_ids,
        weights=TransferSet(labelled, ()).weights(settings),
    )
    objective = fine_tuning_objective(settings, student=given.student, label_ids=labelled.label_ids)
    return Lesson("student", examples, given.held_out, objective, settings)


def control_settings(settings: DistillSettings, *, num_texts: int, num_labelled: int) -> DistillSettings:
    """Return the settings of a student's control: the labels alone, and enough epochs for at least as many steps.

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


ONE_HOT_SAMPLE = 10_000


def _warn_if_one_hot(logits: Logits, temperature: float, problem_type: ProblemType) -> None:
    """Warn where the soft targets are one-hot: they then teach only what the hard labels say."""
    if np.median(task_of(problem_type).confidences(logits / temperature)) > 1 - 1e-4:
        logger.warning(
            "at temperature %g the softened targets are one-hot to within 1e-4 on most texts, so they teach no more than "
            "the labels; raise --temperature",
            temperature,
        )
