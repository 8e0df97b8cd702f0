"""Scores of one metric on one set of texts, with intervals and paired differences; how far a classifier is from its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from distill.data import Dataset
from distill.evaluation.intervals import Bootstrap, Figure
from distill.evaluation.metrics import fit_temperature
from distill.evaluation.scores import metric_of
from distill.labels import Logits, task_of
from export.fitting.reporting.result import Score

TEMPERATURES: Final = (0.5, 4.0)
"""Least and largest: few validation texts, or right answers to all, make no classifier sure of everything or of nothing."""


@dataclass(frozen=True)
class Scorer:
    """One metric on one set of texts.

    Attributes:
        data: Labelled texts.
        metric: Name of the metric.
    """

    data: Dataset
    metric: str

    @cached_property
    def _bootstrap(self) -> Bootstrap:
        return Bootstrap(self.data.label_ids, num_labels=len(self.data.labels), num_seeds=1)

    def temperature(self, logits: Logits) -> float:
        """Return what a classifier's logits are to be divided by, so that its probabilities fit the labels."""
        return float(np.clip(fit_temperature(logits, self.data.label_ids), *TEMPERATURES))

    def distances(self, logits: Logits, *, of_teacher: Logits) -> NDArray[np.float64]:
        """Return the cross-entropy of a classifier's probabilities from the teacher's calibrated ones, in nats, shape (texts,).

        Args:
            logits: Of the classifier, calibrated, shape (texts, labels).
            of_teacher: Same shape, as they are.
        """
        task = task_of(self.data.problem_type)
        return task.cross_entropies(task.probabilities(of_teacher / np.float32(self.temperature(of_teacher))), logits)

    def figure(self, logits: Logits) -> Figure:
        """Return the score of a classifier; figures of one scorer are paired over texts."""
        task = task_of(self.data.problem_type)
        metric = metric_of(self.metric, labels=self.data.labels, task=task)
        return self._bootstrap.share_of_counts(task.decisions(logits), metric)

    def value(self, logits: Logits) -> float:
        """Return the score alone."""
        return self.figure(logits).value

    def score(self, logits: Logits) -> Score:
        """Return the score with its 95 % interval."""
        return Score.of(self.figure(logits).estimate())
