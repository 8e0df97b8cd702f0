"""Answers as result files keep them, a digit a text, and the macro-F1 of all of them on the same resamples of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from distill.evaluation.intervals import Bootstrap, Figure


def digits(answers: str | Sequence[int]) -> NDArray[np.int64]:
    """Return class ids, shape (texts,), that were written a digit a text, or as a list."""
    return np.array(list(answers), dtype=np.int64)


class Answered:
    """All answers to one set of test texts."""

    def __init__(self, labels: str, answers: tuple[str, ...]) -> None:
        """Note them.

        Args:
            labels: The true labels, a digit a text.
            answers: The same of every run that will be compared.
        """
        self.truth = digits(labels)
        self.num_labels = int(self.truth.max()) + 1
        self._labels = labels
        self._answers = tuple(dict.fromkeys(answers))

    def figure(self, runs: list[str]) -> Figure:
        """Return the macro-F1 of an arm by seed; two arms are paired by their order of seeds and by resample."""
        every, places = _of_all(self._labels, self._answers), [self._answers.index(run) for run in runs]
        return Figure(every.seeds[places], every.draws[:, places], is_share=True)


@lru_cache(maxsize=16)
def _of_all(labels: str, answers: tuple[str, ...]) -> Figure:
    truth = digits(labels)
    bootstrap = Bootstrap(truth, num_labels=int(truth.max()) + 1, num_seeds=len(answers))
    return bootstrap.macro_f1(np.array([digits(each) for each in answers]))
