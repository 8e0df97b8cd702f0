"""How well features of an untouched encoder tell the labels of a task apart: three scores, no fine-tuning.

numpy and scikit-learn; knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.errors import DatasetError
from distill.labels import Logits, chosen_labels, indicator
from distill.metrics import macro_f1, macro_f1_interval
from distill.transfer.head import fit_head

PROBE_STRENGTH = 0.01
_LOGME_STEPS = 100


@dataclass(frozen=True)
class Probe:
    """A linear probe that never answered a text it had learnt from.

    Attributes:
        macro_f1: Over all texts, each answered by the fold that lacked it.
        interval: 95 %, over texts.
        logits: Shape (texts, labels).
    """

    macro_f1: float
    interval: tuple[float, float]
    logits: Logits


def linear_probe(
    features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int, folds: int, seed: int
) -> Probe:
    """Cross-validate logistic regression on the features.

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
        folds: Parts; with one label a text each label stands in each in proportion.
        seed: Deals the texts out.

    Raises:
        DatasetError: A label has fewer texts than there are folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    if label_ids.ndim == 1 and (fewest := int(np.bincount(label_ids, minlength=num_labels).min())) < folds:
        raise DatasetError(f"a label has {fewest} texts, and {folds} folds want one each; lower --folds, or add texts")
    kind = StratifiedKFold if label_ids.ndim == 1 else KFold
    logits = np.zeros((len(features), num_labels), dtype=np.float32)
    dealt = kind(folds, shuffle=True, random_state=seed)
    for learnt, held_out in dealt.split(features, label_ids if label_ids.ndim == 1 else None):
        head = fit_head(features[learnt], label_ids[learnt], num_labels=num_labels, strength=PROBE_STRENGTH)
        logits[held_out] = head.logits(features[held_out])
    problem = "single_label_classification" if label_ids.ndim == 1 else "multi_label_classification"
    true, given = indicator(label_ids, num_labels), chosen_labels(logits, problem)  # type: ignore[arg-type]
    return Probe(macro_f1(label_ids, logits), macro_f1_interval(true, given, seed=seed), logits)


def log_maximum_evidence(features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int) -> float:
    """Return LogME: the mean over labels of log p(label | features) / texts of Bayesian linear regression.

    The precisions alpha of the weights and beta of the noise are those that make the evidence largest, by MacKay's fixed
    point (You et al., 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", algorithm 1).

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
    """
    exact = features.astype(np.float64)
    left, singular, _ = np.linalg.svd(exact, full_matrices=False)
    answers = indicator(label_ids, num_labels).astype(np.float64)
    return float(np.mean([_evidence(left, singular, answers[:, label], width=exact.shape[1]) for label in range(num_labels)]))


def _evidence(left: NDArray[np.float64], singular: NDArray[np.float64], answer: NDArray[np.float64], *, width: int) -> float:
    """The largest log evidence of one label, per text, from the singular vectors and values of the features."""
    texts = len(answer)
    squares = singular**2
    along = left.T @ answer  # the answer in the directions of the features
    beside = max(float(answer @ answer - along @ along), 0.0)  # and what no weight can reach
    alpha = beta = 1.0
    for _ in range(_LOGME_STEPS):
        effective = float((beta * squares / (alpha + beta * squares)).sum())
        weights = beta * singular * along / (alpha + beta * squares)
        norm = float(weights @ weights)
        residual = float(((along - singular * weights) ** 2).sum()) + beside
        updated = effective / max(norm, 1e-12), (texts - effective) / max(residual, 1e-12)
        settled = abs(updated[0] / updated[1] - alpha / beta) < 1e-6 * alpha / beta
        alpha, beta = updated
        if settled:
            break
    weights = beta * singular * along / (alpha + beta * squares)
    residual = float(((along - singular * weights) ** 2).sum()) + beside
    determinant = float(np.log(alpha + beta * squares).sum()) + (width - len(squares)) * np.log(alpha)
    evidence = (
        width * np.log(alpha)
        + texts * np.log(beta)
        - texts * np.log(2 * np.pi)
        - beta * residual
        - alpha * float(weights @ weights)
        - determinant
    ) / 2
    return float(evidence / texts)


def h_score(features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int) -> float:
    """Return the H-score: tr(cov(features)^-1 · cov(mean features of the label)), from 0 to the number of labels less one.

    With the covariance shrunk by Ledoit and Wolf's share, without which few texts of many columns score high by chance
    (Bao et al., 2019; Ibrahim et al., 2022). Where a text may have several labels, the mean over the labels, each alone.

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
    """
    from sklearn.covariance import ledoit_wolf

    if label_ids.ndim == 2:
        alone = [h_score(features, label_ids[:, label], num_labels=2) for label in range(num_labels)]
        return float(np.mean(alone))
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    shrunk, share = ledoit_wolf(centred, assume_centered=True)
    between = np.zeros_like(shrunk)
    for label in range(num_labels):
        chosen = centred[label_ids == label]
        if len(chosen):
            mean = chosen.mean(axis=0)
            between += len(chosen) / len(centred) * np.outer(mean, mean)
    return float((1 - share) * np.trace(np.linalg.solve(shrunk, between)))
