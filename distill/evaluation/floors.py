"""Baselines that a distilled model must beat: the majority label, and TF-IDF with logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from distill.data import Dataset
from distill.errors import requires
from distill.labels import Logits, ProblemType, require_single_label
from distill.texts import TextInput, joined

Unit = Literal["words", "characters"]


class MajorityClassifier:
    """Always predicts the most frequent label of the training texts."""

    problem_type: ProblemType = "single_label_classification"

    def __init__(self, train: Dataset) -> None:
        """Count the labels; log-frequencies are the logits."""
        require_single_label(train.problem_type, "the majority floor")
        self.labels = train.labels
        self._logits = np.log(np.maximum(list(train.counts.values()), 0.5)).astype(np.float32)
        self.num_parameters = len(train.labels)

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the same logits for every text."""
        return np.tile(self._logits, (len(texts), 1))


class TfidfClassifier:
    """Logistic regression on TF-IDF of words and pairs of words, or of strings of up to three characters."""

    problem_type: ProblemType = "single_label_classification"

    def __init__(self, train: Dataset, *, unit: Unit = "words", seed: int = 0) -> None:
        """Fit on the training texts; use characters for languages without spaces between words."""
        require_single_label(train.problem_type, "the TF-IDF floor")
        with requires("the TF-IDF floor"):
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        self.labels = train.labels
        analyzer, longest = ("word", 2) if unit == "words" else ("char", 3)
        vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=(1, longest), sublinear_tf=True)
        self._pipeline = make_pipeline(vectorizer, LogisticRegression(max_iter=1000, random_state=seed))
        self._pipeline.fit([joined(text) for text in train.texts], train.label_ids)
        regression = self._pipeline[-1]
        self._known = regression.classes_
        self.num_parameters = int(regression.coef_.size + regression.intercept_.size)

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return log-probabilities; -10,000 for a label that no training text has. The texts of a pair are joined."""
        logits = np.full((len(texts), len(self.labels)), -1e4, dtype=np.float32)
        if not len(texts):  # scikit-learn refuses an empty list, a Classifier must not
            return logits
        logits[:, self._known] = np.maximum(self._pipeline.predict_log_proba([joined(text) for text in texts]), -1e4)
        return logits
