"""A linear head trained on pooled features, and the classifier that it forms with the encoder.

scikit-learn fits the logistic regression. The result is a plain sequence classifier of the encoder's family, BERT's or
RoBERTa's, with the layers that are needed, so transformers, the exporter and the quantizer can read it; no other code
computes the pooling. Reads no files.

    mean pooling   one more layer whose queries and keys are 0: its first token attends to all tokens equally, its value
                   and output layers pass the mean on, and its LayerNorm normalises like `features` does
    regression     the linear layer of the pooler standardises and makes the features so small that its tanh is linear;
                   the weights of the classifier undo that scale
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from distill.errors import SettingsError
from distill.evaluation.metrics import macro_f1
from distill.labels import Logits
from distill.models.families import families_with, family_of
from distill.models.loading import rebuilt
from distill.models.torch_classifier import TorchClassifier
from distill.settings import BUILTIN_MINILM
from distill.students.layers import keep_layers
from distill.teacher_settings import Pooling
from distill.transfer.features import CLS_SHARE, Features

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Inverse regularisation strengths that are tried."""

LINEAR_SHARE = 1e-3
"""Scale of a standardised feature inside the pooler: tanh(x) = x to within x³/3, here 3e-10."""

COMPUTABLE: frozenset[Pooling] = frozenset({"cls", "mean"})
"""Poolings that a sequence classifier computes."""

MAX_STEPS = 500

_thread_pools = cache(ThreadpoolController)
"""The thread pools of the loaded libraries; finding them takes about 20 ms."""

ABSENT = -20.0
"""Logit of a label that no training text has, relative to the others."""


@dataclass(frozen=True)
class LinearHead:
    """Logits = weight · feature + bias.

    Attributes:
        weight: Shape (labels, width).
        bias: Shape (labels,).
        mean: Mean of the training features, shape (width,).
        deviation: Standard deviation of the training features, shape (width,); never 0.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def logits(self, features: NDArray[np.float32]) -> Logits:
        """Return logits, shape (texts, labels)."""
        standard = (features - self.mean) / self.deviation
        return (standard @ self.weight.T + self.bias).astype(np.float32)


@dataclass(frozen=True)
class ChosenHead:
    """The head with the best validation macro-F1.

    Attributes:
        head: The head.
        layers: Number of encoder layers before its features.
        tried: Validation macro-F1 by number of layers, each with its best regularisation strength.
    """

    head: LinearHead
    layers: int
    tried: dict[int, float]


def fit_heads(
    features: NDArray[np.float32],
    label_ids: NDArray[np.int64],
    *,
    num_labels: int,
    strengths: Sequence[float],
    balanced: bool = False,
) -> list[LinearHead]:
    """Fit a logistic regression for each strength; each starts from the weights of the one before.

    With several labels per text, each label has its own binary regression.

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
        strengths: Inverse regularisation strengths (scikit-learn's C), the smallest first.
        balanced: Weight the classes inversely to their frequency.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = np.maximum(features.std(axis=0, dtype=np.float64), 1e-6)
    # float32, like the features: half the time, and the same weights to within the tolerance of the solver.
    standard = ((features - mean) / deviation).astype(np.float32)
    if label_ids.ndim == 1:
        fitted = _regressions(standard, label_ids, num_labels=num_labels, strengths=strengths, balanced=balanced)
    else:
        by_label = [_regressions(standard, has, num_labels=2, strengths=strengths, balanced=balanced) for has in label_ids.T]
        # Yes against no, so that a sigmoid of the difference is the softmax of the two.
        fitted = [np.stack([yes - no for no, yes in of_strength]) for of_strength in zip(*by_label, strict=True)]
    return [LinearHead(weight=rows[:, :-1], bias=rows[:, -1], mean=mean, deviation=deviation) for rows in fitted]


def _regressions(
    standard: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int, strengths: Sequence[float], balanced: bool
) -> list[NDArray[np.float64]]:
    """Return the weights of each label and, in the last column, its bias, shape (labels, width + 1), for each strength.

    A label without a text is never predicted.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=MAX_STEPS, class_weight="balanced" if balanced else None, warm_start=True)
    present = np.unique(label_ids)
    fitted = []
    for strength in strengths:
        rows = np.zeros((num_labels, standard.shape[1] + 1))
        rows[:, -1] = ABSENT
        rows[present] = 0.0
        if len(present) > 1:  # scikit-learn refuses a single class
            # The solver multiplies a matrix by a vector hundreds of times in a row: several threads only slow that down.
            with _thread_pools().limit(limits=1):
                _fit(model.set_params(C=strength), standard, label_ids)
            found = np.column_stack([model.coef_, model.intercept_])
            # scikit-learn keeps only the row of the second of two classes; half of it on each side is the same.
            rows[present] = found if len(found) > 1 else np.vstack([-found, found]) / 2
        fitted.append(rows)
    return fitted


def _fit(model: LogisticRegression, standard: NDArray[np.float32], label_ids: NDArray[np.int64]) -> None:
    """Fit in float32, or in float64 where the solver's steps are too small for float32 before it has converged."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(standard, label_ids)
        except ConvergenceWarning:
            pass
        else:
            return
    model.fit(standard.astype(np.float64), label_ids)


def choose_head(
    *,
    train: Features,
    validation: Features,
    train_labels: NDArray[np.int64],
    validation_labels: NDArray[np.int64],
    num_labels: int,
    layers: int | None = None,
    balanced: bool = False,
) -> ChosenHead:
    """Return the head with the best validation macro-F1 over the numbers of layers and the regularisation strengths.

    Args:
        train: Features to train on.
        validation: Features to choose on.
        train_labels: Labels of the training texts.
        validation_labels: Labels of the validation texts.
        num_labels: Number of labels.
        layers: The only number of layers to try; None tries all.
        balanced: Weight the classes inversely to their frequency.

    Raises:
        SettingsError: The model has no layers.
    """
    heads: dict[int, LinearHead] = {}
    tried: dict[int, float] = {}
    for depth in range(1, train.shape[1]) if layers is None else (layers,):
        fitted = fit_heads(train[:, depth], train_labels, num_labels=num_labels, strengths=STRENGTHS, balanced=balanced)
        scores = [macro_f1(validation_labels, head.logits(validation[:, depth])) for head in fitted]
        tried[depth], heads[depth] = max(scores), fitted[int(np.argmax(scores))]
    if not tried:
        raise SettingsError("the model has no layers, so it has no features; use another model")
    best = max(tried, key=lambda depth: tried[depth])
    return ChosenHead(heads[best], best, tried)


def classifier_of(encoder: TorchClassifier, head: LinearHead, *, layers: int, pooling: Pooling) -> TorchClassifier:
    """Return a sequence classifier of the lowest layers that computes the head's logits.

    Args:
        encoder: The model that the features come from.
        head: Trained on the features after `layers` layers.
        layers: Number of layers to keep.
        pooling: The pooling of the head's features, `cls` or `mean`.

    Raises:
        SettingsError: No classifier of the model's family computes this pooling.
    """
    require_computable(encoder, pooling)
    kept = keep_layers(encoder, range(layers))
    config = copy.deepcopy(kept.model.config)
    names = family_of(config)
    scale = torch.from_numpy(LINEAR_SHARE / head.deviation)
    weights = {
        **kept.model.state_dict(),
        f"{names.pooler}.weight": torch.diag(scale).float(),
        f"{names.pooler}.bias": (-torch.from_numpy(head.mean) * scale).float(),
        f"{names.head}.weight": torch.from_numpy(head.weight / LINEAR_SHARE).float(),
        f"{names.head}.bias": torch.from_numpy(head.bias).float(),
    }
    if pooling == "mean":
        weights |= _pooling_layer(kept, number=layers)
        config.num_hidden_layers = layers + 1
    return rebuilt(kept, config=config, weights=weights)


def can_have_head(encoder: TorchClassifier) -> bool:
    """Return whether a classifier of this model's family computes a head on mean-pooled features."""
    return "frozen features" in family_of(encoder.model.config).supports


def require_computable(encoder: TorchClassifier, pooling: Pooling) -> None:
    """Refuse features that no classifier of the model's family computes."""
    if pooling not in COMPUTABLE:
        raise SettingsError(
            f"no classifier of transformers computes {pooling}-pooled features, so they cannot be saved as a bundle; use "
            "--pooling mean or cls (`potstill select` compares all four)"
        )
    if not can_have_head(encoder):
        raise SettingsError(
            f"a head on features needs a model of the families {families_with('frozen features')}, this is a "
            f"{encoder.model.config.model_type}; use --model {BUILTIN_MINILM}, or --transfer parameters"
        )


def _pooling_layer(encoder: TorchClassifier, *, number: int) -> dict[str, Tensor]:
    """Return the weights of a layer that maps each token to LayerNorm(mean of all tokens + CLS_SHARE * its own state)."""
    config = encoder.model.config
    width, between, names = config.hidden_size, config.intermediate_size, family_of(config)
    parts = {
        names.query: torch.zeros(width, width),
        names.key: torch.zeros(width, width),
        names.value: torch.eye(width),
        # The residual connection adds the token's own state with weight 1, so the mean is scaled up; LayerNorm undoes both.
        names.attention_output: torch.eye(width) / CLS_SHARE,
        names.attention_norm: torch.ones(width),
        names.up: torch.zeros(between, width),
        names.down: torch.zeros(width, between),
        names.norm: torch.ones(width),
    }
    layer = f"{encoder.model.base_model_prefix}.{names.layers}.{number}"
    biases = {f"{layer}.{part}.bias": torch.zeros(len(weight)) for part, weight in parts.items()}
    return biases | {f"{layer}.{part}.weight": weight for part, weight in parts.items()}
