"""A cascade: a student answers the texts it is sure of, a larger classifier the others. One `Classifier` made of two.

How sure is sure enough is chosen on validation texts for a wanted agreement with the larger one. numpy only.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill.bundle import Bundle, CascadeEntry
from distill.classifier import Classifier, TextInput, digest_of, require_same_labels
from distill.errors import BundleError, DatasetError, SettingsError
from distill.evaluation.temperature import fit_temperature
from distill.labels import Logits, ProblemType, task_of

Member = Literal["student", "fallback"]
OnAnswer = Callable[[Member, int, float], object]
"""Told who computed how many texts in how many seconds; the student computes all, the fallback those it is unsure of."""

NEVER_SURE = 2.0
"""A confidence that no answer has: the fallback answers every text."""


@dataclass(frozen=True)
class Threshold:
    """From when on the student is sure enough, as found on validation texts.

    Attributes:
        temperature: The student's logits are divided by it, so that its confidence is the share it is right.
        min_confidence: Confidence from which its answer stands.
        agreement: Share of the texts to which the cascade then answers as the fallback does.
        student_share: Share of the texts that the student answers.
        num_texts: Texts it was found on.
    """

    temperature: float
    min_confidence: float
    agreement: float
    student_share: float
    num_texts: int


class Cascade:
    """A `Classifier` of two. One instance may be shared by threads if its members may."""

    def __init__(
        self,
        student: Classifier,
        fallback: Classifier,
        *,
        min_confidence: float,
        temperature: float = 1.0,
        on_answer: OnAnswer | None = None,
    ) -> None:
        """Put two classifiers together.

        Args:
            student: Asked first, for every text.
            fallback: Asked where the student's confidence is below `min_confidence`.
            min_confidence: At 0 the fallback is never asked, above 1 always.
            temperature: Above 0; what the student's logits are divided by, also where they are the answer.
            on_answer: Told of each call of a member, in the calling thread.

        Raises:
            SettingsError: The two differ in labels or task, the task is a regression, or a number is out of range.
        """
        require_same_labels(student, fallback, names=("the student", "the fallback"))
        if student.problem_type != fallback.problem_type or student.problem_type == "regression":
            raise SettingsError(
                f"a cascade needs two classifiers of one task with labels; the student is for {student.problem_type}, "
                f"the fallback for {fallback.problem_type}"
            )
        if not min_confidence >= 0 or not temperature > 0:
            raise SettingsError(
                f"min_confidence must be at least 0 and temperature above 0, got {min_confidence} and {temperature}"
            )
        self.student, self.fallback = student, fallback
        self.min_confidence, self.temperature = min_confidence, temperature
        self.on_answer = on_answer

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names of both."""
        return self.student.labels

    @property
    def problem_type(self) -> ProblemType:
        """How logits become probabilities."""
        return self.student.problem_type

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)): the student's, calibrated, where it is sure, else the fallback's."""
        logits = self._asked("student", self.student, texts) / np.float32(self.temperature)
        unsure = np.flatnonzero(confidences(logits, self.problem_type) < self.min_confidence)
        if len(unsure):
            logits[unsure] = self._asked("fallback", self.fallback, [texts[place] for place in unsure.tolist()])
        return logits

    def digest(self) -> str:
        """Return the sha256 of what decides the logits: both members, the threshold and the temperature."""
        parts = (digest_of(self.student), digest_of(self.fallback), self.min_confidence, self.temperature)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _asked(self, member: Member, classifier: Classifier, texts: Sequence[TextInput]) -> Logits:
        started = time.perf_counter()
        logits = classifier.predict_logits(texts)
        if self.on_answer is not None:
            self.on_answer(member, len(texts), time.perf_counter() - started)
        return logits


def threshold_of(student: Bundle, fallback: Bundle) -> CascadeEntry:
    """Return the threshold that a student's manifest holds for this fallback.

    Raises:
        BundleError: It holds none, or one that was found with other graphs.
    """
    entry, hint = student.manifest.cascade, f"run `potstill cascade {student.path} {fallback.path} --validation FILE`"
    if entry is None:
        raise BundleError(f"{student.path} has no cascade threshold; {hint} to find one")
    if any(getattr(entry, name) != digest for name, digest in graph_digests(student, fallback).items()):
        raise BundleError(f"the cascade threshold in {student.path} was found with other graphs than these; {hint} again")
    return entry


def graph_digests(student: Bundle, fallback: Bundle) -> dict[str, str]:
    """Return the sha256 of the two graphs that answer in a cascade: of each bundle the best there is."""
    return {
        f"{name}_graph_sha256": bundle.manifest.files[bundle.graph(bundle.best_precision()).name].sha256
        for name, bundle in (("student", student), ("fallback", fallback))
    }


def confidences(logits: Logits, problem_type: ProblemType) -> NDArray[np.float32]:
    """Return how sure each answer is, shape (texts,): the top label's probability.

    Where a text may have several labels, that of the least sure decision.
    """
    sure: NDArray[np.float32] = task_of(problem_type).confidences(logits).min(axis=1)
    return sure


def choose_threshold(
    *,
    student_logits: Logits,
    fallback_logits: Logits,
    labels: NDArray[np.int64],
    problem_type: ProblemType,
    wanted_agreement: float,
) -> Threshold:
    """Return the lowest threshold under which the cascade answers as the fallback does often enough.

    Args:
        student_logits: Of validation texts, shape (texts, labels), before any temperature.
        fallback_logits: Of the same texts.
        labels: Their labels, for the temperature alone.
        problem_type: What the logits mean.
        wanted_agreement: Share of texts, from 0 to 1.

    Raises:
        SettingsError: The wanted agreement is not a share.
        DatasetError: There is no text, or the logits are not of the same texts.
    """
    if not 0 < wanted_agreement <= 1:
        raise SettingsError(f"agreement must be above 0 and at most 1, got {wanted_agreement}")
    if len(student_logits) != len(fallback_logits) or not len(labels):
        raise DatasetError(
            f"{len(student_logits)} and {len(fallback_logits)} rows of logits; wanted a row a text, at least one"
        )
    temperature = fit_temperature(student_logits, labels)
    calibrated = student_logits / np.float32(temperature)
    sure = confidences(calibrated, problem_type)
    differs = _answers_differ(calibrated, fallback_logits, problem_type)
    order = np.argsort(-sure, kind="stable")
    # Among texts as sure as each other the threshold cannot choose: it falls between two different confidences.
    ends = np.flatnonzero(np.append(np.diff(sure[order]) < 0, True)) + 1
    allowed = int(np.floor((1 - wanted_agreement) * len(sure) + 1e-9))
    fitting = ends[np.cumsum(differs[order])[ends - 1] <= allowed]
    taken = int(fitting[-1]) if len(fitting) else 0
    return Threshold(
        temperature=temperature,
        min_confidence=float(sure[order][taken - 1]) if taken else NEVER_SURE,
        agreement=1 - float(differs[order[:taken]].sum()) / len(sure),
        student_share=taken / len(sure),
        num_texts=len(sure),
    )


def _answers_differ(first: Logits, second: Logits, problem_type: ProblemType) -> NDArray[np.bool_]:
    """Return which texts are given other labels, shape (texts,)."""
    task = task_of(problem_type)
    same = task.equal(task.chosen_labels(first), task.chosen_labels(second))
    return np.logical_not(same.all(axis=1))
