"""The floors: classifiers so simple that a distilled model must beat them to be worth anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from distill.classifier import TextInput
from distill.data import Dataset
from distill.errors import SettingsError, requires
from distill.labels import Logits, ProblemType, require_single_label

Unit = Literal["words", "characters"]


class MajorityClassifier:
    """Always gives the commonest label of the training texts."""

    problem_type: ProblemType = "single_label_classification"

    def __init__(self, train: Dataset) -> None:
        """Count the labels; log-frequencies are the logits."""
        require_single_label(train.problem_type, "the majority floor")
        self.labels = train.labels
        counts = np.bincount(train.label_ids, minlength=len(train.labels))
        self._logits = np.log(np.maximum(counts, 0.5)).astype(np.float32)
        self.num_parameters = len(train.labels)

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the same logits for every text."""
        return np.tile(self._logits, (len(texts), 1))


class TfidfClassifier:
    """Words and pairs of words, or strings of up to three characters, weighted by TF-IDF, into a logistic regression."""

    problem_type: ProblemType = "single_label_classification"

    def __init__(self, train: Dataset, *, unit: Unit = "words", seed: int = 0) -> None:
        """Fit on the training texts; characters are for languages that put no spaces between words."""
        require_single_label(train.problem_type, "the TF-IDF floor")
        with requires("the TF-IDF floor"):
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        self.labels = train.labels
        if unit == "words":
            vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        else:
            vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
        self._pipeline = make_pipeline(vectorizer, LogisticRegression(max_iter=1000, random_state=seed))
        self._pipeline.fit(train.texts, train.label_ids)
        regression = self._pipeline[-1]
        self._known = regression.classes_
        self.num_parameters = int(regression.coef_.size + regression.intercept_.size)

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return log-probabilities; a label that no training text has gets a very low one."""
        if any(isinstance(text, tuple) for text in texts):
            raise SettingsError("the TF-IDF floor takes single texts, not pairs")
        logits = np.full((len(texts), len(self.labels)), -1e4, dtype=np.float32)
        if not len(texts):  # scikit-learn refuses what every Classifier answers
            return logits
        logits[:, self._known] = np.maximum(self._pipeline.predict_log_proba(texts), -1e4)
        return logits
