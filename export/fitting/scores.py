"""Scores of one metric on one set of texts, with intervals and paired differences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from distill.data import Dataset
from distill.evaluation.intervals import Bootstrap, Figure
from distill.evaluation.scores import metric_of
from distill.labels import Logits, task_of
from export.fitting.reporting.result import Score


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

    def of_agreement_with(self, logits: Logits) -> Scorer:
        """Return a scorer of how often a classifier decides as these logits do; with several labels a text, their micro-F1."""
        decisions = task_of(self.data.problem_type).decisions(logits)
        return Scorer(replace(self.data, label_ids=decisions), "micro_f1")

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
