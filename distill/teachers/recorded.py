"""Teachers some or all of whose answers are already on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from distill.classifier import Classifier, TextInput, digest_of
from distill.errors import DatasetError
from distill.labels import Logits, ProblemType
from distill.teachers.answer_store import AnswerStore, keys_of

_RECORDED_TEXTS = 4096


@dataclass(frozen=True)
class PartlyAnswered:
    """A teacher some of whose answers were given elsewhere.

    Attributes:
        teacher: Asked for the rest.
        answers: What was given, by text.
        answers_digest: Digest of the table they come from.
    """

    teacher: Classifier
    answers: AnswerStore
    answers_digest: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self.teacher.labels

    @property
    def problem_type(self) -> ProblemType:
        """How logits become probabilities."""
        return self.teacher.problem_type

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Ask the teacher itself, shape (len(texts), len(labels))."""
        return self.teacher.predict_logits(texts)

    def digest(self) -> str:
        """Return a digest of the teacher and of the table."""
        return hashlib.sha256(f"{digest_of(self.teacher)} {self.answers_digest}".encode()).hexdigest()


class RecordedLogits:
    """A classifier that answers for the texts it was recorded with, and for no other."""

    def __init__(
        self,
        answers: Iterable[tuple[str, Sequence[float]]],
        *,
        labels: tuple[str, ...],
        folder: Path,
        problem_type: ProblemType = "single_label_classification",
    ) -> None:
        """Read texts and their logits, once and one at a time.

        Args:
            answers: Each text with one finite number a label, in the order of `labels`; of a repeated text the first count.
            labels: Label names, in order.
            folder: Where they are laid down; whoever owns it removes it.
            problem_type: How the logits become probabilities.

        Raises:
            DatasetError: A text has another number of logits than there are labels, or one that is not finite.
        """
        self.labels = labels
        self.problem_type: ProblemType = problem_type
        self.answers = AnswerStore(folder / "recorded", len(labels))
        source = iter(answers)
        while chunk := list(islice(source, _RECORDED_TEXTS)):
            for text, logits in chunk:
                _require_logits(text, logits, labels)
            texts, columns = zip(*chunk, strict=True)
            self.answers.append(keys_of(texts), np.array(columns, dtype=np.float32))

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the recorded logits, shape (len(texts), len(labels)), float32.

        Raises:
            DatasetError: One of the texts is not recorded.
        """
        found, logits = self.answers.find(keys_of([str(text) for text in texts]))
        if not found.all():
            missing = str(texts[int(np.argmin(found))])
            raise DatasetError(
                f"no teacher logits are recorded for the text {missing[:60]!r}; every text that is learnt from or validated on "
                "needs them in its file, and augmented texts need a teacher that can be asked"
            )
        return logits

    def digest(self) -> str:
        """Return the sha256 of the recorded texts and logits, the labels and the problem type."""
        return hashlib.sha256(json.dumps([self.labels, self.problem_type, self.answers.digest()]).encode()).hexdigest()


def _require_logits(text: str, logits: Sequence[float], labels: tuple[str, ...]) -> None:
    if len(logits) != len(labels) or not np.isfinite(logits).all():
        raise DatasetError(
            f"the text {text[:60]!r} has the teacher logits {list(logits)}; wanted {len(labels)} finite numbers, for "
            f"{', '.join(labels)} in this order"
        )
