"""A head trained on features, and the bundle-ready classifier it makes together with the encoder.

Logistic regression by scikit-learn. What comes out is a plain `BertForSequenceClassification` of the layers that were
needed, so that transformers, the exporter and the quantizer know it; nothing else computes the pooling. Knows no file.

    mean pooling   one more layer with queries and keys of 0: its first token attends to all tokens alike, its value and
                   output products hand the mean on, and its norm does what `features` does
    regression     the pooler's product standardises and makes the features so small that its tanh is a straight line;
                   the classifier's product makes them large again
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from distill.errors import SettingsError
from distill.evaluation.metrics import macro_f1
from distill.labels import Logits
from distill.models.families import FAMILIES
from distill.models.loading import rebuilt
from distill.models.torch_classifier import TorchClassifier
from distill.students.layers import keep_layers
from distill.teacher_settings import Pooling
from distill.transfer.features import CLS_SHARE, Features

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Inverse strengths of the regularisation that are tried."""

LINEAR_SHARE = 1e-3
"""Size of a standardised feature inside the pooler: tanh(x) = x to within x³/3, here 3e-10."""

MAX_STEPS = 500


@dataclass(frozen=True)
class LinearHead:
    """Logits = weight · feature + bias.

    Attributes:
        weight: Shape (labels, width).
        bias: Shape (labels,).
        mean: Of the training features, shape (width,).
        deviation: The same; never 0.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def logits(self, features: NDArray[np.float32]) -> Logits:
        """Return logits, shape (texts, labels)."""
        answers: Logits = (((features - self.mean) / self.deviation) @ self.weight.T + self.bias).astype(np.float32)
        return answers


@dataclass(frozen=True)
class ChosenHead:
    """The head that is best on the validation texts.

    Attributes:
        head: It.
        layers: Layers that its features come after.
        strength: Of its regularisation, inverse.
        macro_f1: On the validation texts.
        tried: Validation macro-F1 by number of layers, of the best strength.
    """

    head: LinearHead
    layers: int
    strength: float
    macro_f1: float
    tried: dict[int, float]


def fit_head(
    features: NDArray[np.float32], label_ids: NDArray[np.int64], *, num_labels: int, strength: float, balanced: bool = False
) -> LinearHead:
    """Fit logistic regression of one strength; see `fit_heads`."""
    (head,) = fit_heads(features, label_ids, num_labels=num_labels, strengths=(strength,), balanced=balanced)
    return head


def fit_heads(
    features: NDArray[np.float32],
    label_ids: NDArray[np.int64],
    *,
    num_labels: int,
    strengths: Sequence[float],
    balanced: bool = False,
) -> list[LinearHead]:
    """Fit logistic regression, one question a label where a text may have several; each strength starts where the last ended.

    Args:
        features: Shape (texts, width).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
        strengths: Inverse strengths of the regularisation (scikit-learn's C), the strongest first.
        balanced: Every class counts the same, however rare.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = np.maximum(features.std(axis=0, dtype=np.float64), 1e-6)
    # In single precision, as the features are: half the time, and the same weights to the regression's own tolerance.
    standard = ((features - mean) / deviation).astype(np.float32)
    counts = "balanced" if balanced else None
    fitted = _questions if label_ids.ndim == 2 else _one_question
    # Its products are of a matrix by a vector, hundreds in a row: threads would wait for each other more than they help.
    with threadpool_limits(limits=1):
        products = fitted(standard, label_ids, num_labels=num_labels, strengths=strengths, counts=counts)
    return [LinearHead(weight, bias, mean, deviation) for weight, bias in products]


Products = list[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Weight and bias by strength, shapes (labels, width) and (labels,)."""


def _one_question(
    standard: NDArray[np.float32],
    label_ids: NDArray[np.int64],
    *,
    num_labels: int,
    strengths: Sequence[float],
    counts: str | None,
) -> Products:
    """Fit one regression over all classes; a class without a text is never the answer."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=MAX_STEPS, class_weight=counts, warm_start=True)
    found: Products = []
    for strength in strengths:
        model.set_params(C=strength).fit(standard, label_ids)
        coefficients, intercepts = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn keeps the second class's row alone; half to each side is the same
            coefficients = np.vstack([-coefficients, coefficients]) / 2
            intercepts = np.concatenate([-intercepts, intercepts]) / 2
        weight, bias = np.zeros((num_labels, standard.shape[1])), np.full(num_labels, -20.0)
        weight[model.classes_], bias[model.classes_] = coefficients, intercepts
        found.append((weight, bias))
    return found


def _questions(
    standard: NDArray[np.float32],
    label_ids: NDArray[np.int64],
    *,
    num_labels: int,
    strengths: Sequence[float],
    counts: str | None,
) -> Products:
    """Fit a yes or no a label; a label that all texts or none have is always, or never, an answer."""
    found: Products = [(np.zeros((num_labels, standard.shape[1])), np.full(num_labels, -20.0)) for _ in strengths]
    for label in range(num_labels):
        answers = label_ids[:, label]
        if len(np.unique(answers)) < 2:
            for _, bias in found:
                bias[label] = 20.0 if answers[0] else -20.0
            continue
        yes = _one_question(standard, answers, num_labels=2, strengths=strengths, counts=counts)
        for (weight, bias), (coefficients, intercepts) in zip(found, yes, strict=True):
            weight[label], bias[label] = 2 * coefficients[1], 2 * intercepts[1]
    return found


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
    """Return the head, among the numbers of layers and strengths, with the best validation macro-F1.

    Args:
        train: Features to learn from.
        validation: Features that choose.
        train_labels: Of the first.
        validation_labels: Of the second.
        num_labels: Number of labels.
        layers: Only after so many layers; None tries all.
        balanced: Every class counts the same, however rare.
    """
    depths = [layers] if layers is not None else range(1, train.shape[1])
    best: ChosenHead | None = None
    tried: dict[int, float] = {}
    for depth in depths:
        heads = fit_heads(train[:, depth], train_labels, num_labels=num_labels, strengths=STRENGTHS, balanced=balanced)
        for strength, head in zip(STRENGTHS, heads, strict=True):
            score = macro_f1(validation_labels, head.logits(validation[:, depth]))
            tried[depth] = max(score, tried.get(depth, 0.0))
            if best is None or score > best.macro_f1:
                best = ChosenHead(head, depth, strength, score, tried)
    if best is None:
        raise SettingsError("the model has no layers, so there are no features; name another")
    return best


def classifier_of(encoder: TorchClassifier, head: LinearHead, *, layers: int, pooling: Pooling) -> TorchClassifier:
    """Return a sequence classifier of the lowest layers whose logits are the head's on their pooled states.

    Args:
        encoder: Whose layers.
        head: Trained on the states after `layers` layers.
        layers: How many are kept.
        pooling: `cls` or `mean`, as the head's features were pooled.

    Raises:
        SettingsError: No BERT classifier computes this pooling, or the model is not a BERT.
    """
    require_computable(encoder, pooling)
    kept = keep_layers(encoder, range(layers))
    config = copy.deepcopy(kept.model.config)
    weights = dict(kept.model.state_dict())
    if pooling == "mean":
        weights |= _pooling_layer(config, number=layers)
        config.num_hidden_layers = layers + 1
    scale = torch.from_numpy(LINEAR_SHARE / head.deviation)
    weights["bert.pooler.dense.weight"] = torch.diag(scale).float()
    weights["bert.pooler.dense.bias"] = (-torch.from_numpy(head.mean) * scale).float()
    weights["classifier.weight"] = torch.from_numpy(head.weight / LINEAR_SHARE).float()
    weights["classifier.bias"] = torch.from_numpy(head.bias).float()
    return rebuilt(kept, config=config, weights=weights)


def require_computable(encoder: TorchClassifier, pooling: Pooling) -> None:
    """Refuse features that no BERT classifier computes."""
    if pooling not in ("cls", "mean"):
        raise SettingsError(
            f"no classifier of transformers computes {pooling}-pooled features, so no bundle can be made of them; use "
            "--pooling mean or cls (`potstill select` compares all four)"
        )
    family = encoder.model.config.model_type
    if family != "bert":
        raise SettingsError(f"a head on features is written for BERT models, this is a {family}; use --transfer parameters")


def _pooling_layer(config: object, *, number: int) -> dict[str, Tensor]:
    """Weights of a BERT layer that gives every token norm(mean of all tokens + CLS_SHARE * its own state)."""
    width, between = config.hidden_size, config.intermediate_size  # type: ignore[attr-defined]
    names = FAMILIES["bert"]
    parts = {
        names.query: torch.zeros(width, width),
        names.key: torch.zeros(width, width),
        names.value: torch.eye(width),
        # The residual adds the token's own state with weight 1: so the mean is scaled up, and the norm undoes both.
        names.attention_output: torch.eye(width) / CLS_SHARE,
        names.attention_norm: torch.ones(width),
        names.up: torch.zeros(between, width),
        names.down: torch.zeros(width, between),
        names.norm: torch.ones(width),
    }
    weights = {f"bert.{names.layers}.{number}.{part}.weight": weight for part, weight in parts.items()}
    biases = {f"bert.{names.layers}.{number}.{part}.bias": torch.zeros(len(weight)) for part, weight in parts.items()}
    return weights | biases
