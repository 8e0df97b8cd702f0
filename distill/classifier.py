"""The contract everything in memory follows: texts in, logits out, labels attached.

The PyTorch teacher, the PyTorch student, the fp32 graph and the int8 graph are all a `Classifier`; metrics,
gates, measuring and serving are functions over it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distill.errors import DatasetError, SettingsError
from distill.labels import Logits, ProblemType, task_of

TextInput = str | tuple[str, str]


class Classifier(Protocol):
    """Anything that labels texts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names; column j of the logits belongs to labels[j]."""
        ...

    @property
    def problem_type(self) -> ProblemType:
        """How logits become probabilities, in Hugging Face's words."""
        ...

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), float32; row i belongs to texts[i]."""
        ...


@dataclass(frozen=True)
class Ensemble:
    """Several classifiers that answer as one: with the mean of their logits.

    Attributes:
        members: Classifiers with the same labels in the same order.

    Raises:
        SettingsError: There is none, or they differ in labels or problem type.
    """

    members: tuple[Classifier, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise SettingsError("an ensemble has no members; give it one or more")
        for number, member in enumerate(self.members[1:], start=2):
            require_same_labels(self.members[0], member, names=("member 1 of the ensemble", f"member {number}"))
            if member.problem_type != self.problem_type:
                raise SettingsError(
                    f"member 1 of the ensemble is for {self.problem_type}, member {number} for {member.problem_type}"
                )

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names of every member."""
        return self.members[0].labels

    @property
    def problem_type(self) -> ProblemType:
        """How logits become probabilities."""
        return self.members[0].problem_type

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the mean of the members' logits, shape (len(texts), len(labels)), float32."""
        return mean_logits([member.predict_logits(texts) for member in self.members])

    def digest(self) -> str:
        """Return a digest of the members' digests, in their order."""
        return hashlib.sha256(" ".join(map(digest_of, self.members)).encode()).hexdigest()


def digest_of(classifier: Classifier) -> str:
    """Return the digest of everything that decides a classifier's logits.

    Caches, checkpoints and finished trials are keyed by it, so a teacher must have one.

    Raises:
        SettingsError: The classifier has no method `digest()`.
    """
    digest = getattr(classifier, "digest", None)
    if not callable(digest):
        raise SettingsError(
            f"{type(classifier).__name__} has no digest(), so it cannot teach: its cached answers could not be told from those "
            "of another teacher; add a method `digest() -> str` that returns another value whenever the logits would change"
        )
    return str(digest())


def mean_logits(answers: Sequence[Logits]) -> Logits:
    """Return the mean over classifiers of logits of the same shape; summed in float64, in the order given."""
    mean: Logits = np.stack(answers).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    Attributes:
        label: The label with the highest probability.
        score: Its probability.
        labels: The labels given: that one; or, where a text may have several, all from `THRESHOLD` on, be it none.
        probabilities: One per label.
    """

    label: str
    score: float
    labels: tuple[str, ...]
    probabilities: dict[str, float]


def predict(classifier: Classifier, texts: Sequence[TextInput]) -> list[Prediction]:
    """Label texts, in their order."""
    logits = classifier.predict_logits(texts)
    task = task_of(classifier.problem_type)
    return [
        Prediction(
            label=classifier.labels[top],
            score=float(row[top]),
            labels=tuple(name for name, given in zip(classifier.labels, gets, strict=True) if given),
            probabilities=dict(zip(classifier.labels, map(float, row), strict=True)),
        )
        for row, gets, top in zip(task.probabilities(logits), task.chosen_labels(logits), top_labels(logits), strict=True)
    ]


def predict_stream(classifier: Classifier, texts: Iterable[str], *, chunk_size: int = 1024) -> Iterator[tuple[str, Prediction]]:
    """Label a stream of texts of any length, `chunk_size` texts in memory at a time."""
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == chunk_size:
            yield from zip(chunk, predict(classifier, chunk), strict=True)
            chunk = []
    if chunk:
        yield from zip(chunk, predict(classifier, chunk), strict=True)


def top_labels(logits: Logits) -> NDArray[np.int64]:
    """Return the class id with the largest logit of each row, shape (texts,)."""
    ids: NDArray[np.int64] = logits.argmax(axis=1).astype(np.int64)
    return ids


def agreement(first: Logits, second: Logits, problem_type: ProblemType = "single_label_classification") -> float:
    """Return the share (0-1) of equal answers of two classifiers to the same texts, at least one.

    Of texts with the same top label; where a text may have several labels, of equal (text, label) decisions.
    """
    if len(first) != len(second) or not len(first):
        raise DatasetError(f"{len(first)} and {len(second)} rows of logits; wanted one row a text in both, at least one")
    task = task_of(problem_type)
    return float(task.equal(task.chosen_labels(first), task.chosen_labels(second)).mean())


def require_same_labels(first: Classifier, second: Classifier, *, names: tuple[str, str]) -> None:
    """Refuse to compare two classifiers whose labels or label order differ."""
    if first.labels != second.labels:
        raise SettingsError(
            f"{names[0]} has labels {list(first.labels)}, {names[1]} has {list(second.labels)}; "
            "the names and their order must be the same"
        )
