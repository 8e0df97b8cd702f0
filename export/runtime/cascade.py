"""A cascade: a student answers the texts it is confident about, a larger classifier (the fallback) the others.

The confidence threshold is chosen on validation texts for a wanted agreement with the fallback. numpy only.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from distill.bundle import Bundle
from distill.classifier import Classifier, TextInput, digest_of, require_same_labels
from distill.errors import BundleError, DatasetError, GateError, SettingsError
from distill.evaluation.intervals import most_misses, share_bound
from distill.evaluation.metrics import fit_temperature
from distill.labels import Logits, ProblemType, task_of
from distill.manifest import CascadeEntry
from export.runtime.long_texts import Reader

Member = Literal["student", "fallback"]
OnAnswer = Callable[[Member, int, float], object]
"""Called with the member, its number of texts and its seconds: the student for all texts, the fallback for the unsure ones."""

NEVER_SURE = 2.0
"""Above every confidence: the fallback answers every text."""

FITTED_SHARE = 0.2
"""Share of the texts that a temperature is fitted on where it must not be fitted on those that are tested."""


Student = TypeVar("Student", bound=Classifier, covariant=True)


class Cascade(Generic[Student]):
    """A `Classifier` made of two. Threads may share an instance if they may share its members."""

    def __init__(
        self,
        student: Student,
        fallback: Classifier,
        *,
        min_confidence: float,
        temperature: float = 1.0,
        on_answer: OnAnswer | None = None,
    ) -> None:
        """Combine two classifiers.

        Args:
            student: Asked first, for every text.
            fallback: Asked where the student's confidence is below `min_confidence`.
            min_confidence: With 0 the fallback is never asked, above 1 always.
            temperature: Above 0; divides the student's logits, also in the answers.
            on_answer: Called after each call of a member, in the calling thread.

        Raises:
            SettingsError: The two differ in labels or task, the task is regression, or a value is out of range.
        """
        require_same_labels(student, fallback, names=("the student", "the fallback"))
        if student.problem_type != fallback.problem_type or student.problem_type == "regression":
            raise SettingsError(
                f"a cascade needs two classifiers with the same task and labels; the student is for {student.problem_type}, "
                f"the fallback for {fallback.problem_type}"
            )
        if not min_confidence >= 0 or not temperature > 0:
            raise SettingsError(
                f"min_confidence must be at least 0 and temperature above 0, got {min_confidence} and {temperature}"
            )
        self.student, self.fallback = student, fallback
        self.labels: tuple[str, ...] = student.labels
        self.problem_type: ProblemType = student.problem_type
        self.min_confidence, self.temperature = min_confidence, temperature
        self.on_answer = on_answer

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (texts, labels): calibrated ones of the student where it is sure, else the fallback's."""
        return self._completed(self._asked("student", len(texts), lambda: self.student.predict_logits(texts)), texts)

    def predict_encoded(self: Cascade[Reader], rows: Sequence[NDArray[np.int64]], texts: Sequence[TextInput]) -> Logits:
        """Return what `predict_logits` returns for texts that the student's tokenizer has read already."""
        return self._completed(self._asked("student", len(rows), lambda: self.student.predict_encoded(rows)), texts)

    def _completed(self, logits: Logits, texts: Sequence[TextInput]) -> Logits:
        logits = logits / np.float32(self.temperature)
        unsure = np.flatnonzero(confidences(logits, self.problem_type) < self.min_confidence)
        if len(unsure):
            asked = [texts[place] for place in unsure.tolist()]
            logits[unsure] = self._asked("fallback", len(asked), lambda: self.fallback.predict_logits(asked))
        return logits

    def digest(self) -> str:
        """Return the sha256 of what decides the logits: both members, the threshold and the temperature."""
        parts = (digest_of(self.student), digest_of(self.fallback), self.min_confidence, self.temperature)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _asked(self, member: Member, num_texts: int, answer: Callable[[], Logits]) -> Logits:
        started = time.perf_counter()
        logits = answer()
        if self.on_answer is not None:
            self.on_answer(member, num_texts, time.perf_counter() - started)
        return logits


def threshold_of(student: Bundle, fallback: Bundle) -> CascadeEntry:
    """Return the threshold in a student's manifest for this fallback.

    Raises:
        BundleError: There is none, or it was chosen with other graphs.
    """
    entry, hint = student.manifest.cascade, f"run `potstill cascade {student.path} {fallback.path} --validation FILE`"
    if entry is None:
        raise BundleError(f"{student.path} has no cascade threshold; {hint} to find one")
    if any(getattr(entry, name) != digest for name, digest in graph_digests(student, fallback).items()):
        raise BundleError(f"the cascade threshold in {student.path} was found with other graphs than these; {hint} again")
    return entry


def graph_digests(student: Bundle, fallback: Bundle | Classifier) -> dict[str, str]:
    """Return the SHA-256 of the two graphs of a cascade: int8 of each bundle where it has one, else fp32.

    A fallback that is no bundle, such as the answers of a language model, has its digest instead.
    """
    return {
        f"{name}_graph_sha256": one.manifest.files[one.graph(one.best_precision()).name].sha256
        if isinstance(one, Bundle)
        else digest_of(one)
        for name, one in (("student", student), ("fallback", fallback))
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
    graphs: Mapping[str, str],
    confidence: float | None = None,
) -> CascadeEntry:
    """Return the lowest threshold with which the cascade agrees with the fallback often enough.

    With `confidence`, often enough is a promise about new texts; `_allowed` says how it is kept.

    Args:
        student_logits: Logits of validation texts, shape (texts, labels), before any temperature.
        fallback_logits: Logits of the same texts.
        labels: Labels of the texts; used only to fit the temperature.
        problem_type: How logits become probabilities.
        wanted_agreement: Share of texts, above 0 and at most 1.
        graphs: The digests of the graphs that computed the logits, from `graph_digests`.
        confidence: Probability, over drawings of the texts, that the promise holds; None chooses by the texts as they are.

    Raises:
        SettingsError: The wanted agreement or the confidence is out of range.
        DatasetError: There is no text, or the logits have different numbers of rows.
        GateError: A confidence is asked for, and no threshold keeps it.
    """
    _require_promise(wanted_agreement, confidence)
    if len(student_logits) != len(fallback_logits) or not len(labels):
        raise DatasetError(
            f"{len(student_logits)} and {len(fallback_logits)} rows of logits; expected one per text in both, at least one"
        )
    tested, fitted = _tested_and_fitted(len(labels), student_logits.shape[1], problem_type, promised=confidence is not None)
    temperature = fit_temperature(student_logits[fitted], labels[fitted])
    calibrated = student_logits[tested] / np.float32(temperature)
    sure = confidences(calibrated, problem_type)
    differs = ~task_of(problem_type).same_labels(calibrated, fallback_logits[tested])
    order, count = np.argsort(-sure, kind="stable"), len(sure)
    # A threshold cannot separate texts of equal confidence: only the ends of runs of equal confidences are candidates.
    ends = np.flatnonzero(np.append(np.diff(sure[order]) < 0, True)) + 1
    allowed = _allowed(count, wanted_agreement, confidence)
    fitting = ends[np.cumsum(differs[order])[ends - 1] <= allowed]
    taken = int(fitting[-1]) if len(fitting) else 0
    if confidence is not None and not taken:
        raise GateError(_refusal(count, int(allowed), wanted_agreement, confidence))
    differing = int(differs[order[:taken]].sum())
    return CascadeEntry(
        **graphs,
        temperature=temperature,
        min_confidence=float(sure[order][taken - 1]) if taken else NEVER_SURE,
        agreement=1 - differing / count,
        student_share=taken / count,
        num_texts=count,
        agreement_bound=None if confidence is None else share_bound(count - differing, count, confidence=confidence),
        confidence=confidence,
    )


def _require_promise(wanted_agreement: float, confidence: float | None) -> None:
    if not 0 < wanted_agreement <= 1:
        raise SettingsError(f"agreement must be above 0 and at most 1, got {wanted_agreement}")
    if confidence is not None and not (0 < confidence < 1 and wanted_agreement < 1):
        raise SettingsError(
            f"confidence must be between 0 and 1, and agreement below 1, which no number of texts shows; got {confidence} and "
            f"{wanted_agreement}"
        )


def _allowed(count: int, wanted_agreement: float, confidence: float | None) -> float:
    """Return how many of the texts may get another label from the cascade than from the fallback.

    With a confidence, so many that the lower Clopper-Pearson bound of the agreement is still the wanted one. All thresholds are
    tried, from the highest down, and the first that fails ends the search: fixed-sequence testing, each test at the full level.
    It needs no Bonferroni correction for the search, which would allow fewer differences: a lower threshold keeps every
    difference of a higher one, so where any threshold with too low a true agreement passes, the highest of those passes, too,
    and that has at most a probability of 1 - `confidence`. The order of the texts must not depend on their labels for this; see
    `_tested_and_fitted`.
    """
    if confidence is None:
        return (1 - wanted_agreement) * count + 1e-9
    return most_misses(count, wanted_agreement, confidence=confidence)


def _tested_and_fitted(
    count: int, num_labels: int, problem_type: ProblemType, *, promised: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the texts that thresholds are tested on, and of those the temperature is fitted on.

    For a promise they must differ where a temperature, which is fitted to labels, changes the order of confidences: with one
    label of more than two.
    """
    places = np.arange(count)
    if not promised or num_labels == 2 or problem_type != "single_label_classification":
        return places, places
    fitted = np.sort(np.random.default_rng(0).permutation(count)[: max(1, round(FITTED_SHARE * count))])
    return np.setdiff1d(places, fitted), fitted


def _refusal(count: int, allowed: int, wanted_agreement: float, confidence: float) -> str:
    asked = f"an agreement of {wanted_agreement:g} with confidence {confidence:g}"
    if allowed < 0:
        needed = math.ceil(math.log(1 - confidence) / math.log(wanted_agreement))
        return f"{count} texts cannot show {asked}: it takes {needed} at least, more if some differ; give more texts"
    return (
        f"no threshold keeps {asked}: of {count} texts, {allowed} may differ, and more do among those that the student is "
        "surest of; give more texts, ask for less, or train a better student"
    )
