"""Baselines that a distilled model must beat: the most frequent answer, and TF-IDF with logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from distill.data import Dataset
from distill.errors import requires
from distill.labels import Logits
from distill.texts import TextInput, joined

Unit = Literal["words", "characters"]
NEVER = -1e4
"""Logit of a label that no training text has."""


class MajorityClassifier:
    """Always predicts the most frequent label of the training texts; with several labels a text, those that most texts have."""

    def __init__(self, train: Dataset) -> None:
        """Count the labels; log-frequencies are the logits, with several labels a text the log-odds of each."""
        self.labels, self.problem_type = train.labels, train.problem_type
        have, several = np.array(list(train.counts.values())), self.problem_type == "multi_label_classification"
        others = np.log(np.maximum(len(train) - have, 0.5)) if several else 0.0
        self._logits = (np.log(np.maximum(have, 0.5)) - others).astype(np.float32)
        self.num_parameters = len(train.labels)

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the same logits for every text."""
        return np.tile(self._logits, (len(texts), 1))


class TfidfClassifier:
    """Logistic regression on TF-IDF of words and pairs of words, or of strings of up to three characters.

    With several labels a text there is one regression for each label.
    """

    def __init__(self, train: Dataset, *, unit: Unit = "words", seed: int = 0) -> None:
        """Fit on the training texts; use characters for languages without spaces between words."""
        with requires("the TF-IDF floor"):
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
        self.labels, self.problem_type = train.labels, train.problem_type
        analyzer, longest = ("word", 2) if unit == "words" else ("char", 3)
        self._vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=(1, longest), sublinear_tf=True)
        features = self._vectorizer.fit_transform([joined(text) for text in train.texts])
        counts = np.array(list(train.counts.values()))
        # Nothing is to be learnt of a label that no text has, or every text.
        self._constant = np.where(counts == len(train), -NEVER, NEVER).astype(np.float32)
        self._known = np.flatnonzero((counts > 0) & (counts < len(train)))
        several = self.problem_type == "multi_label_classification"
        self._regressions = [
            LogisticRegression(max_iter=1000, random_state=seed).fit(features, answers)
            for answers in (train.label_ids[:, self._known].T if several else [train.label_ids])
        ]
        self.num_parameters = int(sum(each.coef_.size + each.intercept_.size for each in self._regressions))

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return log-probabilities, of several labels a text log-odds; no less than -10,000. The texts of a pair are joined."""
        logits = np.tile(self._constant, (len(texts), 1))
        if not len(texts):  # scikit-learn refuses an empty list, a Classifier must not
            return logits
        features = self._vectorizer.transform([joined(text) for text in texts])
        if self.problem_type == "multi_label_classification":
            found = np.array([each.decision_function(features) for each in self._regressions]).T
        else:
            found = self._regressions[0].predict_log_proba(features)
        logits[:, self._known] = np.maximum(found, NEVER)
        return logits
