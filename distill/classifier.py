"""The `Classifier` protocol: texts in, logits out, with label names.

Teachers, students, fp32 and int8 graphs all implement it; metrics, gates, benchmarks and the server are written for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distill.errors import DatasetError, SettingsError
from distill.labels import Logits, ProblemType, task_of
from distill.texts import TextInput as TextInput


class Classifier(Protocol):
    """A text classifier."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names; column j of the logits belongs to labels[j]."""

    @property
    def problem_type(self) -> ProblemType:
        """How logits become probabilities; the names are those of Hugging Face."""

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), float32; row i belongs to texts[i]."""


@dataclass(frozen=True)
class Ensemble:
    """Several classifiers that answer with the mean of their logits.

    Attributes:
        members: Classifiers with the same labels in the same order.

    Raises:
        SettingsError: There are no members, or they differ in labels or problem type.
    """

    members: tuple[Classifier, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise SettingsError("an ensemble needs at least one member")
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
        """Return the sha256 of the members' digests, in order."""
        return hashlib.sha256(" ".join(map(digest_of, self.members)).encode()).hexdigest()


def digest_of(classifier: Classifier) -> str:
    """Return a classifier's digest, which identifies its logits.

    It is part of the keys of caches, checkpoints and finished trials, so a teacher must have one.

    Raises:
        SettingsError: The classifier has no method `digest()`.
    """
    digest = getattr(classifier, "digest", None)
    if not callable(digest):
        raise SettingsError(
            f"{type(classifier).__name__} has no digest(), so it cannot be a teacher: its cached logits could be mistaken for "
            "those of another; add a method `digest() -> str` whose value changes whenever the logits would change"
        )
    return str(digest())


def mean_logits(answers: Sequence[Logits]) -> Logits:
    """Return the mean of several classifiers' logits, all of the same shape; the sum is in float64."""
    return np.asarray(np.mean(answers, axis=0, dtype=np.float64), dtype=np.float32)


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    Attributes:
        label: The label with the highest probability.
        score: Its probability.
        labels: The predicted labels: `label`; or, for multi-label classifiers, all with a probability of at least
            `THRESHOLD`, possibly none.
        probabilities: The probability of each label.
    """

    label: str
    score: float
    labels: tuple[str, ...]
    probabilities: dict[str, float]


def predict(classifier: Classifier, texts: Sequence[TextInput]) -> list[Prediction]:
    """Return the prediction for each text, in order."""
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


def predict_stream(
    classifier: Classifier, texts: Iterable[TextInput], *, chunk_size: int = 1024
) -> Iterator[tuple[TextInput, Prediction]]:
    """Label a stream of texts, with `chunk_size` texts in memory at a time."""
    remaining = iter(texts)
    while chunk := list(islice(remaining, chunk_size)):
        yield from zip(chunk, predict(classifier, chunk), strict=True)


def top_labels(logits: Logits) -> NDArray[np.int64]:
    """Return the class id with the largest logit of each row, shape (texts,)."""
    return np.asarray(logits.argmax(axis=1), dtype=np.int64)


def agreement(first: Logits, second: Logits, problem_type: ProblemType = "single_label_classification") -> float:
    """Return the share (0-1) of texts for which two classifiers predict the same label, or the same set of labels.

    Raises:
        DatasetError: There are no texts, or the two answered different numbers of them.
    """
    if len(first) != len(second) or not len(first):
        raise DatasetError(f"cannot compare {len(first)} and {len(second)} rows of logits: both need one row per text")
    return float(task_of(problem_type).same_labels(first, second).mean())


def require_same_labels(first: Classifier, second: Classifier, *, names: tuple[str, str]) -> None:
    """Raise `SettingsError` if the labels of two classifiers or their order differ."""
    if first.labels != second.labels:
        raise SettingsError(
            f"{names[0]} has labels {list(first.labels)}, {names[1]} has {list(second.labels)}; "
            "the names and their order must be the same"
        )
