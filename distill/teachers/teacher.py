"""Open a teacher: a bundle, any classifier, or several whose logits are averaged; and refuse one that cannot teach."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from distill.bundle import MANIFEST, WEIGHTS, Bundle
from distill.classifier import Classifier, Ensemble, digest_of
from distill.errors import SettingsError, TeacherError
from distill.evaluation.intervals import macro_f1_of_counts
from distill.evaluation.metrics import confusion_matrix
from distill.labels import Logits, ProblemType, Task, task_of_labels
from distill.models.devices import chosen_device, on_device
from distill.models.loading import load_bundle
from distill.models.static_network import StaticClassifier
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter
from distill.settings import Device
from distill.storage import sha256_of
from distill.teachers.recorded import PartlyAnswered, ScoredTable

logger = logging.getLogger(__name__)

AnyTeacher = Bundle | Classifier
"""What can be a teacher, alone or in an ensemble."""

CERTAIN = 3.0
"""Number of standard errors above which a better label order is not explained by chance."""

ROUNDING = 1e-9
"""Difference of macro-F1 up to which two values are equal."""

MAX_LABELS_NAMED = 10
"""Maximum number of labels in a message."""

MAX_LENGTH_COMPARED = 512
"""Any number: tokenizers are compared at the same `max_length`."""


@dataclass(frozen=True)
class Teacher:
    """One teacher or several, ready to predict.

    Attributes:
        members: The classifiers; all have the same labels in the same order.
        names: Identity of each member in the lineage: the sha256 of a bundle's weights, or the digest of another classifier.
        folders: Folder of each member that was loaded from a bundle, otherwise None.
    """

    members: tuple[Classifier, ...]
    names: tuple[str, ...]
    folders: tuple[Path | None, ...]

    @property
    def asked(self) -> Classifier:
        """The classifier that predicts: the only member, or an ensemble of all."""
        return self.members[0] if len(self.members) == 1 else Ensemble(self.members)

    def digest(self) -> str:
        """Return the digest of everything that changes the logits; see `digest_of`."""
        return digest_of(self.asked)

    def lender(self) -> TorchClassifier:
        """Return the model that a student copies layers from: the first PyTorch member that has layers.

        Raises:
            SettingsError: No member has layers.
        """
        member = next((one for one in self._torch_members() if not isinstance(one.model, StaticClassifier)), None)
        if member is None:
            raise SettingsError(
                "a student copies layers from its teacher, but this teacher has none; add a bundle with weights as a teacher, "
                "or name a pretrained model with --student"
            )
        return member

    def torch_member(self) -> TorchClassifier | None:
        """Return the first PyTorch member, or None."""
        return next(self._torch_members(), None)

    def _torch_members(self) -> Iterator[TorchClassifier]:
        models = (member.teacher if isinstance(member, PartlyAnswered) else member for member in self.members)
        return (model for model in models if isinstance(model, TorchClassifier))


def open_teacher(teacher: AnyTeacher | Sequence[AnyTeacher] | Teacher, *, device: Device) -> Teacher:
    """Load the teacher; PyTorch models are moved to the device.

    A `Teacher` is returned as it is.

    Raises:
        SettingsError: No teacher is given, one has no `digest()`, or their labels differ.
        BundleError: A bundle has no weights.
    """
    if isinstance(teacher, Teacher):
        return teacher
    several = tuple(teacher) if isinstance(teacher, Sequence) else (teacher,)
    if not several:
        raise SettingsError("no teacher is given; name a bundle or a fine-tuned Hugging Face classifier")
    members = tuple(load_bundle(one) if isinstance(one, Bundle) else one for one in several)
    for member in members:
        if isinstance(member, TorchClassifier):
            on_device(member.model, chosen_device(device))
    names = (one.manifest.files[WEIGHTS].sha256 if isinstance(one, Bundle) else digest_of(one) for one in several)
    opened = Teacher(members, tuple(names), tuple(one.path if isinstance(one, Bundle) else None for one in several))
    Ensemble(members)  # refuses members whose labels differ
    return opened


def with_scored(teacher: Teacher, folders: Sequence[Path], *, reporter: Reporter) -> Teacher:
    """Return the teacher with the logits that `potstill score --logits` wrote; they are not computed again.

    Args:
        teacher: Loaded from bundles.
        folders: Output folders of that command; at most one for each bundle.
        reporter: Told the number of rows.

    Raises:
        SettingsError: A folder was scored with another bundle, or two with the same.
        DatasetError: A folder is not complete, or damaged.
    """
    members = list(teacher.members)
    digests = [None if path is None else sha256_of(path / MANIFEST) for path in teacher.folders]
    for folder in folders:
        table = ScoredTable.open(folder)
        if table.bundle not in digests:
            raise SettingsError(
                f"{folder} was scored with another bundle, or the bundle has changed since; score it with the teacher again"
            )
        place = digests.index(table.bundle)
        if isinstance(members[place], PartlyAnswered):
            raise SettingsError(f"{folder} is the second folder scored with this bundle; score all texts into one folder")
        members[place] = PartlyAnswered(members[place], table.store(), table.digest)
        reporter.say(f"scored: {folder} has the logits of {table.num_rows:,} rows, computed by the {table.precision} graph")
    return replace(teacher, members=tuple(members))


def require_same_label_names(teacher_labels: tuple[str, ...], data_labels: tuple[str, ...]) -> None:
    """Refuse data whose label names or label order differ from the teacher's."""
    if teacher_labels != data_labels:
        raise SettingsError(
            f"the teacher's labels are {list(teacher_labels)}, the labels of the data are {list(data_labels)}; write the "
            "teacher's label names in the data"
        )


def require_same_task(teacher_task: ProblemType, data_task: ProblemType) -> None:
    """Refuse data with several labels per text for a teacher of one label per text, and the reverse."""
    if teacher_task != data_task:
        raise SettingsError(
            f"the teacher is for {teacher_task}, the data for {data_task}; write several labels per text as a list in the "
            "label column, or separated by --label-separator"
        )


def require_useful_teacher(*, logits: Logits, label_ids: NDArray[np.int64], labels: tuple[str, ...]) -> None:
    """Refuse a teacher whose macro-F1 is not above that of a classifier that ignores the text, or that is better if permuted.

    Training selects by macro-F1, too; accuracy would refuse a good teacher of a rare class. A teacher must be better than
    predicting the most frequent answer for every text, and better than its own answers in random order, which have the higher
    macro-F1 of the two if one class is rare.

    Args:
        logits: Logits of the teacher, shape (texts, labels).
        label_ids: True class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        labels: Label names.

    Raises:
        TeacherError: A student should not learn from it; the message says why and what to do.
    """
    task = task_of_labels(label_ids)
    true, given = task.indicator(label_ids, len(labels)), task.chosen_labels(logits)
    order = best_order(true, given, task)
    reordered = given[:, np.argsort(order)]
    accuracy, best = (float(task.equal(true, answers).mean()) for answers in (given, reordered))
    own, floor = _macro_f1(true, given), _uninformed_macro_f1(true, given, task)
    # An untrained teacher may be slightly better in another order by chance; only a trained one is above the floor in it.
    informed = _macro_f1(true, reordered) > max(own, _uninformed_macro_f1(true, reordered, task))
    errors = _standard_errors(true, given, task) if best > accuracy and informed else 0.0
    if errors > 0:
        moved = [f"{labels[index]!r} -> {labels[target]!r}" for index, target in enumerate(order) if index != target]
        renamed = ", ".join(moved[:MAX_LABELS_NAMED]) + (" and others" if len(moved) > MAX_LABELS_NAMED else "")
        found = (
            f"the teacher is right on {accuracy:.1%} of the {'label decisions' if label_ids.ndim == 2 else 'texts'}, but on "
            f"{best:.1%} with its labels read as {renamed}"
        )
        if errors >= CERTAIN:
            raise TeacherError(
                f"{found}; its label order differs from the data's: correct the label names in the data, or fine-tune the "
                "teacher again; for recorded logits, list --labels in the teacher's order"
            )
        logger.warning("%s; this may be chance because there are few texts, but check the order of the labels", found)
    if own <= floor + ROUNDING:
        raise TeacherError(
            f"the teacher's macro-F1 on the validation texts is {own:.3f}; answers that ignore the text (always the most "
            f"frequent one, or the teacher's own in random order) reach {floor:.3f}; `potstill teacher` without training flags "
            "chooses its settings from the texts, and says what to change where that does not suffice"
        )


def floor_of(*, logits: Logits, label_ids: NDArray[np.int64], num_labels: int) -> float:
    """Return the macro-F1 that these answers must exceed: that of answers that ignore the text."""
    task = task_of_labels(label_ids)
    return _uninformed_macro_f1(task.indicator(label_ids, num_labels), task.chosen_labels(logits), task)


def require_same_tokens(student: TorchClassifier, teacher: TorchClassifier, *, term: str) -> None:
    """Refuse to compare two models token by token unless their tokenizers return the same ids.

    The teacher runs on the student's batch; ids of another tokenizer would be other words to it.

    Args:
        student: The student.
        teacher: The teacher.
        term: Name of the loss term that compares them.

    Raises:
        SettingsError: Their tokenizers differ, or the student reads more tokens than the teacher can.
    """
    own, others = student.tokenizer, teacher.tokenizer
    if own.with_max_length(MAX_LENGTH_COMPARED).digest() != others.with_max_length(MAX_LENGTH_COMPARED).digest():
        raise SettingsError(
            f"{term} compares student and teacher token by token, but their tokenizers differ (vocabularies of "
            f"{own.vocabulary_size:,} and {others.vocabulary_size:,} tokens); keep the teacher's whole vocabulary, or use "
            "losses on logits"
        )
    if own.max_length > others.max_length:
        raise SettingsError(
            f"{term} runs the teacher on the student's inputs of up to {own.max_length} tokens, but the teacher's maximum is "
            f"{others.max_length}; lower --max-length"
        )


def _macro_f1(true: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    return float(macro_f1_of_counts(hits=(true & given).sum(axis=0), true=true.sum(axis=0), given=given.sum(axis=0)))


def _uninformed_macro_f1(true: NDArray[np.bool_], given: NDArray[np.bool_], task: Task) -> float:
    """Return the higher macro-F1 of two classifiers that ignore the text: the most frequent answer, shuffled answers."""
    texts, has, gets = len(true), true.sum(axis=0), given.sum(axis=0)
    both = (task.most_frequent(true) * texts, gets)
    return float(max(macro_f1_of_counts(hits=has * counts / texts, true=has, given=counts) for counts in both))


def best_order(true: NDArray[np.bool_], given: NDArray[np.bool_], task: Task) -> NDArray[np.int64]:
    """Return the label order with the most correct decisions: the teacher's label i is read as the data's order[i]."""
    num_labels = true.shape[1]
    if task.problem_type == "multi_label_classification":
        both = given.T.astype(np.float64) @ true
        right = 2 * both + len(true) - given.sum(axis=0)[:, None] - true.sum(axis=0)  # both yes or both no
    else:
        right = confusion_matrix(true.argmax(axis=1), given.argmax(axis=1), num_labels=num_labels).T
    # Prefer the order as it is among equally good ones: all bonuses together are less than one correct decision.
    order: NDArray[np.int64] = linear_sum_assignment(right * (num_labels + 1) + np.eye(num_labels), maximize=True)[1]
    return order


def _standard_errors(true: NDArray[np.bool_], given: NDArray[np.bool_], task: Task) -> float:
    """Return by how many standard errors another label order is better, 0 if it is not.

    McNemar's z: of the decisions that are correct in only one order, (gained - lost) / sqrt(gained + lost). Each half of the
    texts is judged in the order that is best on the other half, because the best of many orders is always better on the texts
    it was chosen on.
    """
    gained = lost = 0
    first = np.random.default_rng(0).permutation(len(true)) % 2 == 0  # the texts may be sorted
    for judged, chosen_on in ((first, ~first), (~first, first)):
        order, answers = best_order(true[chosen_on], given[chosen_on], task), given[judged]
        before, after = (task.equal(true[judged], one) for one in (answers, answers[:, np.argsort(order)]))
        gained += int((after & ~before).sum())
        lost += int((before & ~after).sum())
    return (gained - lost) / math.sqrt(gained + lost) if gained > lost else 0.0
