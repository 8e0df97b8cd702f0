"""Texts longer than `max_length`: truncated, or read whole in overlapping windows.

The logits of a long text are the mean over its windows. The mean keeps the scale of the logits of one text, so that the
calibration temperature and thresholds still apply. It does not grow with the length of the text, as a maximum over many windows
would. To the graph, each window is a text; with fixed scales no answer depends on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from distill.classifier import Classifier, TextInput
from distill.errors import SettingsError
from distill.labels import Logits, ProblemType
from distill.settings import LongTexts
from distill.tokenization import TextTokenizer


class Reader(Classifier, Protocol):
    """A classifier whose two steps can be called separately, texts to ids and ids to logits, like `OnnxClassifier`."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """Texts to ids; its `max_length` is the largest number of tokens of a text."""

    def predict_encoded(self, rows: Sequence[NDArray[np.int64]]) -> Logits:
        """Return the logits of rows of ids, shape (len(rows), len(labels))."""


def answer_long(classifier: Reader, texts: Sequence[TextInput], *, long_texts: LongTexts) -> tuple[Logits, int]:
    """Return the logits, shape (texts, labels), and how many of the texts are longer than `max_length`.

    Args:
        classifier: Computes the logits; those of shorter texts are bit for bit its own.
        texts: Any number of texts.
        long_texts: "truncate" reads the beginning of a long text, "windows" all of it.

    Raises:
        SettingsError: A long text pair with "windows": it is undefined which of the two texts to continue.
        DatasetError: A text is not a string, or cannot be encoded.
    """
    tokenizer = classifier.tokenizer
    readings = list(tokenizer.read(texts))
    rows = [reading.ids for reading in readings]
    long = [place for place, reading in enumerate(readings) if reading.is_cut]
    if long_texts == "truncate" or not long:
        return classifier.predict_encoded(rows), len(long)
    if any(not isinstance(texts[place], str) for place in long):
        raise SettingsError("a pair cannot be read in windows; join its texts into one, or use --long-texts truncate")
    windows = [[row] for row in rows]
    for place in long:
        windows[place] = tokenizer.windows(cast(str, texts[place]))
    logits = classifier.predict_encoded([row for each in windows for row in each])
    return mean_of_windows(logits, [len(each) for each in windows]), len(long)


def mean_of_windows(logits: Logits, num_windows: Sequence[int]) -> Logits:
    """Return the logits of texts, shape (texts, labels), from those of their windows, one text after the other."""
    counts = np.array(num_windows)
    sums = np.add.reduceat(logits.astype(np.float64), np.cumsum(counts) - counts, axis=0)
    means: Logits = (sums / counts[:, None]).astype(np.float32)
    return means


class LongTextClassifier:
    """A `Classifier` that truncates long texts or reads them in windows, and counts them; for one thread."""

    def __init__(self, classifier: Reader, *, long_texts: LongTexts) -> None:
        """Wrap a classifier; `answer_long` describes `long_texts`."""
        self.labels: tuple[str, ...] = classifier.labels
        self.problem_type: ProblemType = classifier.problem_type
        self._classifier = classifier
        self._long_texts: LongTexts = long_texts
        self.num_texts = self.num_long = 0

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), float32; row i belongs to texts[i]."""
        logits, num_long = answer_long(self._classifier, texts, long_texts=self._long_texts)
        self.num_texts += len(texts)
        self.num_long += num_long
        return logits

    def words(self) -> str:
        """Return a sentence with the share of long texts and how they were read; empty if there was none."""
        if not self.num_long:
            return ""
        return long_words(
            self.num_long, self.num_texts, max_length=self._classifier.tokenizer.max_length, long_texts=self._long_texts
        )


def long_words(num_long: int, num_texts: int, *, max_length: int | None = None, long_texts: LongTexts) -> str:
    """Return a sentence with the share of texts that were longer than the limit and how they were read."""
    limit = "the bundle reads" if max_length is None else f"{max_length} tokens"
    how = "were cut (see --long-texts)" if long_texts == "truncate" else "were read in windows"
    return f"{num_long:,} of {num_texts:,} texts ({num_long / num_texts:.1%}) were longer than {limit} and {how}"
