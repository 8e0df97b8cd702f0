"""Who teaches: a bundle, any classifier, or several whose logits are averaged; and what must hold of a teacher first."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.bundle import WEIGHTS, Bundle
from distill.classifier import Classifier, Ensemble, digest_of
from distill.errors import SettingsError, TeacherError
from distill.labels import Logits, ProblemType, task_of_labels
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
    """

    members: tuple[Classifier, ...]
    names: tuple[str, ...]

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


def open_teacher(teacher: AnyTeacher | Sequence[AnyTeacher], *, device: Device) -> Teacher:
    """Load whatever teaches; models of bundles go to the device, other classifiers stay where they are.

    Raises:
        SettingsError: No teacher is given, one has no `digest()`, or they do not share their labels.
        BundleError: A bundle has no weights.
    """
    several = tuple(teacher) if isinstance(teacher, Sequence) else (teacher,)
    if not several:
        raise SettingsError("no teacher is given; name a bundle")
    opened = Teacher(tuple(_load(one, device) for one in several), tuple(map(_name_of, several)))
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
"""Standard errors from which a better order of the labels is no chance: the best of 720 orders is often a little better."""

MAX_LABELS_PERMUTED = 6
"""Up to 6 labels all 720 orders are tried; beyond that, only exchanges of two."""

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
    """Refuse a teacher that is no better than always giving the commonest label, or better under permuted labels.

    Where a text may have several labels, each of its decisions counts, and the commonest answer is taken label by label.

    Args:
        logits: The teacher's, shape (texts, labels).
        label_ids: True class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        labels: Label names.

    Raises:
        TeacherError: It is not worth learning from; the message says why and what to do.
    """
    several = label_ids.ndim == 2
    task = task_of_labels(label_ids)
    true, given = task.indicator(label_ids, len(labels)), task.chosen_labels(logits)
    hits = _hits(true, given, several=several)
    answers = true.size if several else len(true)
    majority = task.majority_accuracy(true)
    accuracy = float(np.trace(hits)) / answers
    order, most = _best_order(hits)
    best = most / answers
    of, commonest = ("label decisions", "answer") if several else ("texts", "label")
    # An untuned teacher, too, may be a little less wrong in another order; only one that learnt something beats the majority.
    if best > max(accuracy, majority):
        renamed = ", ".join(f"{labels[index]!r} -> {labels[target]!r}" for index, target in enumerate(order) if index != target)
        found = f"the teacher is right on {accuracy:.1%} of the {of}, but on {best:.1%} if its labels are read as {renamed}"
        if _standard_errors(hits, true, order, several=several) >= CERTAIN:
            raise TeacherError(
                f"{found}; its label order is not the data's: name the labels in the teacher's order with --labels"
            )
        logger.warning("%s; on so few that may be chance, but look at the order of the labels", found)
    if accuracy <= majority:
        raise TeacherError(
            f"the teacher is right on {accuracy:.1%} of the {of}, always saying the commonest {commonest} on {majority:.1%}; "
            "fine-tune it first with `potstill teacher`"
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


def _hits(true: NDArray[np.bool_], given: NDArray[np.bool_], *, several: bool) -> NDArray[np.int64]:
    """Return how many answers of the teacher's label p are right if it is the data's label t, shape (labels, labels)."""
    has, gets = true.astype(np.int64), given.astype(np.int64)
    return gets.T @ has + (1 - gets).T @ (1 - has) if several else gets.T @ has


def _best_order(hits: NDArray[np.int64]) -> tuple[tuple[int, ...], float]:
    """Return which of the data's labels each of the teacher's is best read as, and how many answers are right then."""
    num_labels = len(hits)
    identity = tuple(range(num_labels))
    if num_labels <= MAX_LABELS_PERMUTED:
        orders = list(itertools.permutations(identity))
    else:
        orders = [identity] + [_exchanged(identity, pair) for pair in itertools.combinations(identity, 2)]
    rows = np.arange(num_labels)
    scores = [hits[rows, list(order)].sum() for order in orders]
    best = int(np.argmax(scores))  # the first of equals: the identity comes first
    return orders[best], float(scores[best])


def _standard_errors(hits: NDArray[np.int64], true: NDArray[np.bool_], order: tuple[int, ...], *, several: bool) -> float:
    """Return by how many standard errors the other order is better.

    McNemar's z: of the answers that are right in one order only, (gained - lost) / sqrt(gained + lost).
    """
    rows, targets = np.arange(len(order)), np.array(order)
    moved = rows != targets
    gained, lost = hits[rows, targets][moved].sum(), hits[rows, rows][moved].sum()
    # A yes or no that is right for both labels is no evidence; where the two differ, it is right for one of them.
    in_one_order = (true[:, rows] != true[:, targets]).sum() if several else gained + lost
    return float((gained - lost) / math.sqrt(in_one_order))


def _exchanged(order: tuple[int, ...], pair: tuple[int, int]) -> tuple[int, ...]:
    first, second = pair
    return tuple({first: second, second: first}.get(index, index) for index in order)
