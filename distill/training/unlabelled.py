"""Which unlabelled texts a student may learn from: those that its teachers are sure of, and agree on.

For texts of another domain than the teachers', where some answers are guesses. Reads the answers from the cache that the
soft targets are taken from later, so that nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from distill.classifier import mean_logits
from distill.errors import SettingsError
from distill.labels import Logits, ProblemType, chosen_labels, probabilities
from distill.progress import Reporter
from distill.settings import DistillSettings
from distill.training.devices import Compute
from distill.training.teachers import Teacher
from distill.training.together import logits_together
from distill.training.transfer_set import TransferSet


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
    shares = probabilities(mean_logits(answers) / np.float32(temperature), problem_type)
    several = problem_type == "multi_label_classification"
    confidence = np.maximum(shares, 1 - shares).min(axis=1) if several else shares.max(axis=1)
    passed: NDArray[np.bool_] = confidence >= min_confidence
    if agreed:
        given = np.stack([chosen_labels(logits, problem_type) for logits in answers])
        passed = passed & (given == given[0]).all(axis=(0, 2))
    return passed
