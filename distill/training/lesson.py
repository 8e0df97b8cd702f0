"""What a student learns from: labelled, unlabelled and augmented texts, with what each source counts.

The texts, their token ids and the teacher's logits stand in files that are mapped, so that a million unlabelled texts
pass through without growing the run: made once, by the first of its processes, and mapped by all. So a process holds of
them what it is reading, however many texts there are; the labelled texts alone are in its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distill.classifier import mean_logits
from distill.data import Dataset, SeenTexts
from distill.data.dataset import JoinedTexts
from distill.errors import SettingsError
from distill.labels import Logits, ProblemType, task_of
from distill.losses.term import UNLABELLED
from distill.models.devices import Compute
from distill.progress import Reporter
from distill.settings import DistillSettings, TransferSettings
from distill.teachers.teacher import Teacher
from distill.tokenization import TextTokenizer
from distill.training.shared_files import MappedRows, SharedFiles, logits_together


@dataclass(frozen=True)
class TransferSet:
    """The texts of the three sources, in this order.

    Attributes:
        labelled: Texts with labels.
        unlabeled: Texts without, none of which is labelled or held out, none twice.
        augmented: Noisy copies of either.
        files: Where what is made from them is kept while the student learns.
    """

    labelled: Dataset
    unlabeled: Sequence[str]
    augmented: Sequence[str]
    files: SharedFiles

    @classmethod
    def gather(
        cls, labelled: Dataset, unlabeled: Iterable[str], *, held_out: Sequence[Dataset], files: SharedFiles
    ) -> TransferSet:
        """Read unlabelled texts, once and one at a time, leaving out repeats and what is labelled or held out."""
        return cls(labelled, files.texts("unlabeled", _fresh(unlabeled, (labelled, *held_out))), (), files)

    def with_unlabeled(self, kept: Iterable[str]) -> TransferSet:
        """Return the set with these of its unlabelled texts, which are read once and one at a time."""
        return replace(self, unlabeled=self.files.texts("kept", kept))

    def with_augmented(self, copies: Iterable[str]) -> TransferSet:
        """Return the set with these augmented texts, which are read once and one at a time."""
        return replace(self, augmented=self.files.texts("augmented", copies))

    def labels_alone(self) -> TransferSet:
        """Return the labelled texts as a set of their own."""
        return replace(self, unlabeled=(), augmented=())

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabeled) + len(self.augmented)

    @property
    def texts(self) -> Sequence[str]:
        """All texts."""
        return JoinedTexts(self.labelled.texts, self.unlabeled, self.augmented)

    def rows(self, tokenizer: TextTokenizer) -> MappedRows:
        """Return the token ids of all texts."""
        return self.files.rows("rows", self.texts, tokenizer)

    def label_ids(self) -> NDArray[np.int64]:
        """Return the labels of all texts, `UNLABELLED` throughout after the labelled ones."""
        known = self.labelled.label_ids
        shape = (len(self) - len(known), *known.shape[1:])
        return self.files.array("label_ids", lambda: np.concatenate([known, np.full(shape, UNLABELLED, dtype=known.dtype)]))

    def weights(self, settings: TransferSettings) -> NDArray[np.float32] | None:
        """Return what each text counts, shape (texts,); None where all count 1."""
        sources = (
            (self.labelled.texts, settings.labelled_weight),
            (self.unlabeled, settings.unlabeled_weight),
            (self.augmented, settings.augmented_weight),
        )
        if all(weight == 1 for _, weight in sources):
            return None
        return self.files.array(
            "weights", lambda: np.concatenate([np.full(len(texts), weight, dtype=np.float32) for texts, weight in sources])
        )


def _fresh(unlabeled: Iterable[str], others: Sequence[Dataset]) -> Iterator[str]:
    yield from SeenTexts(text for dataset in others for text in dataset.texts).fresh(unlabeled)


def keep_sure(
    teacher: Teacher, transfer: TransferSet, settings: DistillSettings, *, compute: Compute, reporter: Reporter
) -> TransferSet:
    """Return the transfer set without the unlabelled texts that its teachers are unsure of, as the settings say.

    Args:
        teacher: One or several.
        transfer: Texts before any copies are made.
        settings: Least confidence, and whether all must agree.
        compute: Numbers the teachers compute in.
        reporter: Told how many texts are left.

    Raises:
        SettingsError: Teachers are to agree, and there is one; or no text passes.
    """
    if not len(transfer.unlabeled) or not (settings.unlabeled_confidence or settings.unlabeled_agreed):
        return transfer
    if settings.unlabeled_agreed and len(teacher.members) == 1:
        raise SettingsError("unlabeled_agreed asks several teachers, and there is one; name more, or leave it out")
    answers = [
        logits_together(
            one, transfer.unlabeled, files=transfer.files, name=f"unlabeled-{number}", compute=compute, reporter=reporter
        ).logits
        for number, one in enumerate(teacher.members)
    ]
    return transfer.with_unlabeled(_passing(transfer.unlabeled, answers, teacher.asked.problem_type, settings, reporter))


def _passing(
    texts: Sequence[str],
    answers: Sequence[Logits],
    problem_type: ProblemType,
    settings: DistillSettings,
    reporter: Reporter,
) -> Iterator[str]:
    passed = sure_of(
        answers,
        problem_type=problem_type,
        min_confidence=settings.unlabeled_confidence,
        agreed=settings.unlabeled_agreed,
        temperature=settings.unlabeled_temperature,
    )
    if not passed.any():
        raise SettingsError(
            f"the teachers are sure of none of the {len(passed)} unlabelled texts; lower --unlabeled-confidence"
        )
    reporter.say(f"unlabelled texts: {int(passed.sum())} of {len(passed)} are kept, the teachers are sure of them")
    yield from (text for text, kept in zip(texts, passed, strict=True) if kept)


def sure_of(
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
        min_confidence: Least probability of the label given, in the mean of the logits; where a text may have several
            labels, of the side taken for the least sure of them.
        agreed: Pass only texts that every teacher gives the same labels.
        temperature: Divides the logits before they become probabilities; above 1 for teachers that are too sure.
    """
    task = task_of(problem_type)
    confidences = task.confidences(mean_logits(answers) / np.float32(temperature))
    passed: NDArray[np.bool_] = confidences.min(axis=1) >= min_confidence
    if agreed:
        given = np.stack([task.chosen_labels(logits) for logits in answers])
        passed = passed & (given == given[0]).all(axis=(0, 2))
    return passed
