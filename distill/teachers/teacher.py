"""Who teaches: a bundle, any classifier, or several whose logits are averaged; and what must hold of a teacher first."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from distill.bundle import WEIGHTS, Bundle
from distill.classifier import Classifier, Ensemble, digest_of
from distill.errors import SettingsError, TeacherError
from distill.evaluation.intervals import macro_f1_of_counts
from distill.evaluation.metrics import confusion_matrix
from distill.labels import Logits, ProblemType, Task, task_of_labels
from distill.models.devices import chosen_device, on_device
from distill.models.loading import load_bundle
from distill.models.static_network import StaticClassifier
from distill.models.torch_classifier import TorchClassifier
from distill.settings import Device
from distill.teachers.recorded import PartlyAnswered
from distill.tokenization import TextTokenizer

AnyTeacher = Bundle | Classifier
"""What may teach, alone or with others."""


@dataclass(frozen=True)
class Teacher:
    """One teacher or several, ready to be asked.

    Attributes:
        members: Each of them; all have the same labels in the same order.
        names: What the lineage records of each: the sha256 of a bundle's weights, or the digest of another classifier.
        folders: Folder of each that was loaded from a bundle, otherwise None.
    """

    members: tuple[Classifier, ...]
    names: tuple[str, ...]
    folders: tuple[Path | None, ...]

    @property
    def asked(self) -> Classifier:
        """The one that gives the answers: the only member, or the mean of all."""
        return self.members[0] if len(self.members) == 1 else Ensemble(self.members)

    def digest(self) -> str:
        """Return the digest of everything that decides the answers; see `digest_of`."""
        return digest_of(self.asked)

    def lender(self) -> TorchClassifier:
        """Return whose layers a student is made of: the first PyTorch member that has some.

        Raises:
            SettingsError: There is none.
        """
        member = next((one for one in self._torch_members() if not isinstance(one.model, StaticClassifier)), None)
        if member is None:
            raise SettingsError(
                "a student is made of its teacher's layers, and this teacher has none; name a bundle with weights too, or "
                "a pretrained model with --student"
            )
        return member

    def torch_member(self) -> TorchClassifier | None:
        """Return the first PyTorch member, if there is one."""
        return next(self._torch_members(), None)

    def _torch_members(self) -> Iterator[TorchClassifier]:
        models = (member.teacher if isinstance(member, PartlyAnswered) else member for member in self.members)
        return (model for model in models if isinstance(model, TorchClassifier))


def open_teacher(teacher: AnyTeacher | Sequence[AnyTeacher] | Teacher, *, device: Device) -> Teacher:
    """Load whatever teaches; models of bundles go to the device, other classifiers stay where they are.

    A `Teacher` is returned as it is.

    Raises:
        SettingsError: No teacher is given, one has no `digest()`, or they do not share their labels.
        BundleError: A bundle has no weights.
    """
    if isinstance(teacher, Teacher):
        return teacher
    several = tuple(teacher) if isinstance(teacher, Sequence) else (teacher,)
    if not several:
        raise SettingsError("no teacher is given; name a bundle")
    folders = tuple(one.path if isinstance(one, Bundle) else None for one in several)
    opened = Teacher(tuple(_load(one, device) for one in several), tuple(map(_name_of, several)), folders)
    if len(several) > 1:
        Ensemble(opened.members)  # refuses members whose labels differ
    return opened


def _load(teacher: AnyTeacher, device: Device) -> Classifier:
    loaded = load_bundle(teacher) if isinstance(teacher, Bundle) else teacher
    if isinstance(loaded, TorchClassifier):
        on_device(loaded.model, chosen_device(device))
    return loaded


def _name_of(teacher: AnyTeacher) -> str:
    if isinstance(teacher, Bundle):
        return teacher.manifest.files[WEIGHTS].sha256
    return digest_of(teacher)


logger = logging.getLogger(__name__)

CERTAIN = 3.0
"""Standard errors from which a better order of the labels is not chance."""

ROUNDING = 1e-9
"""Macro-F1 within which two values are the same."""

MAX_LABELS_NAMED = 10
"""Labels that a message names."""

MAX_LENGTH_COMPARED = 512
"""Any length: tokenizers are compared at the same one."""


def require_same_label_names(teacher_labels: tuple[str, ...], data_labels: tuple[str, ...]) -> None:
    """Refuse data whose label names or their order are not the teacher's."""
    if teacher_labels != data_labels:
        raise SettingsError(
            f"the teacher's labels are {list(teacher_labels)}, the data's {list(data_labels)}; "
            "map the data to the teacher's names"
        )


def require_same_task(teacher_task: ProblemType, data_task: ProblemType) -> None:
    """Refuse data with several labels a text for a teacher that gives one, and the other way round."""
    if teacher_task != data_task:
        raise SettingsError(
            f"the teacher is for {teacher_task}, the data for {data_task}; several labels a text stand in the label column "
            "as a list, or with --label-separator between them"
        )


def require_useful_teacher(*, logits: Logits, label_ids: NDArray[np.int64], labels: tuple[str, ...]) -> None:
    """Refuse a teacher whose macro-F1 shows no knowledge of the texts, or that is better under permuted labels.

    Macro-F1 is what training selects by; accuracy would refuse a good teacher of a rare class. A teacher must beat the most
    frequent answer given to every text, and also its own answers given in random order: where one class is rare, those have
    a macro-F1 above that of the most frequent answer.

    Args:
        logits: The teacher's, shape (texts, labels).
        label_ids: True class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        labels: Label names.

    Raises:
        TeacherError: It is not worth learning from; the message says why and what to do.
    """
    task = task_of_labels(label_ids)
    true, given = task.indicator(label_ids, len(labels)), task.chosen_labels(logits)
    order = _best_order(true, given, task)
    reordered = given[:, np.argsort(order)]
    accuracy, best = (float(task.equal(true, answers).mean()) for answers in (given, reordered))
    own, floor = _macro_f1(true, given), _uninformed_macro_f1(true, given, task)
    # An untuned teacher may be slightly better in another order by chance; only a trained one also beats the floor in it.
    informed = _macro_f1(true, reordered) > max(own, _uninformed_macro_f1(true, reordered, task))
    errors = _standard_errors(true, given, task) if best > accuracy and informed else 0.0
    if errors > 0:
        moved = [f"{labels[index]!r} -> {labels[target]!r}" for index, target in enumerate(order) if index != target]
        renamed = ", ".join(moved[:MAX_LABELS_NAMED]) + (" and others" if len(moved) > MAX_LABELS_NAMED else "")
        decisions = "label decisions" if label_ids.ndim == 2 else "texts"
        found = (
            f"the teacher is right on {accuracy:.1%} of the {decisions}, but on {best:.1%} with its labels read as {renamed}"
        )
        if errors >= CERTAIN:
            raise TeacherError(
                f"{found}; its label order is not that of the data: name the labels in the teacher's order with --labels"
            )
        logger.warning("%s; with so few texts this may be chance, but check the order of the labels", found)
    if own <= floor + ROUNDING:
        raise TeacherError(
            f"the teacher's macro-F1 on the validation texts is {own:.3f}; answers that ignore the text (always the most "
            f"frequent one, or the teacher's own in random order) reach {floor:.3f}; fine-tune it with `potstill teacher`"
        )


def require_same_tokens(student: TorchClassifier, teacher: TorchClassifier, *, term: str) -> None:
    """Refuse to compare two models token by token unless both cut every text into the same ids.

    The teacher then runs on the student's batch; on ids of another tokenizer it would read other words.

    Args:
        student: Who learns.
        teacher: Who is compared with.
        term: Name of the loss term that asks for it.

    Raises:
        SettingsError: Their tokenizers differ, or the student reads more tokens than the teacher can.
    """
    if tokens_of(student.tokenizer) != tokens_of(teacher.tokenizer):
        sizes = [classifier.tokenizer.vocabulary_size for classifier in (student, teacher)]
        raise SettingsError(
            f"{term} compares student and teacher token by token, but their tokenizers differ (vocabularies of "
            f"{sizes[0]:,} and {sizes[1]:,} tokens), so the same place need not hold the same word; keep the teacher's whole "
            "vocabulary, or use losses on logits"
        )
    if student.tokenizer.max_length > teacher.tokenizer.max_length:
        raise SettingsError(
            f"{term} runs the teacher on the student's texts of up to {student.tokenizer.max_length} tokens, but it reads "
            f"{teacher.tokenizer.max_length}; lower --max-length"
        )


def tokens_of(tokenizer: TextTokenizer) -> str:
    """Return a digest of everything that decides a tokenizer's ids but where it cuts long texts."""
    return tokenizer.with_max_length(MAX_LENGTH_COMPARED).digest()


def _macro_f1(true: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    return float(macro_f1_of_counts(hits=(true & given).sum(axis=0), true=true.sum(axis=0), given=given.sum(axis=0)))


def _uninformed_macro_f1(true: NDArray[np.bool_], given: NDArray[np.bool_], task: Task) -> float:
    """Return the better macro-F1 of two classifiers that ignore the text: the most frequent answer, the answers shuffled."""
    texts, has, gets = len(true), true.sum(axis=0), given.sum(axis=0)
    always = task.most_frequent(true) * texts
    return float(max(macro_f1_of_counts(hits=has * counts / texts, true=has, given=counts) for counts in (always, gets)))


def _best_order(true: NDArray[np.bool_], given: NDArray[np.bool_], task: Task) -> NDArray[np.int64]:
    """Return the order of labels with the most right decisions: the teacher's label i is best read as the data's order[i]."""
    num_labels = true.shape[1]
    if task.problem_type == "multi_label_classification":
        both = given.T.astype(np.float64) @ true
        right = 2 * both + len(true) - given.sum(axis=0)[:, None] - true.sum(axis=0)  # yes to both, or no to both
    else:
        right = confusion_matrix(true.argmax(axis=1), given.argmax(axis=1), num_labels=num_labels).T
    # Labels stay in place where another order is only as good: all bonuses together count less than one right decision.
    order: NDArray[np.int64] = linear_sum_assignment(right * (num_labels + 1) + np.eye(num_labels), maximize=True)[1]
    return order


def _standard_errors(true: NDArray[np.bool_], given: NDArray[np.bool_], task: Task) -> float:
    """Return by how many standard errors another order of the labels is better, 0 if it is not.

    McNemar's z: of the decisions that are right in one order only, (gained - lost) / sqrt(gained + lost). Each half of the
    texts is judged in the order that is best on the other half: on the texts it was chosen on, the best of so many orders
    is always better.
    """
    gained = lost = 0
    first = np.random.default_rng(0).permutation(len(true)) % 2 == 0  # the texts may be in an order of their own
    for judged, chosen_on in ((first, ~first), (~first, first)):
        order, answers = _best_order(true[chosen_on], given[chosen_on], task), given[judged]
        before, after = (task.equal(true[judged], one) for one in (answers, answers[:, np.argsort(order)]))
        gained += int((after & ~before).sum())
        lost += int((before & ~after).sum())
    return (gained - lost) / math.sqrt(gained + lost) if gained > lost else 0.0
