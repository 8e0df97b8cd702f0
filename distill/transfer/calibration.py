"""Temperature scaling: the one number that makes a classifier's confidence fit its accuracy (Guo et al., 2017).

The number is kept in the manifest and divided into the head's weights, so that the PyTorch model, every graph made of it and
the server all answer calibrated, and none has to know of it. The order of the logits, and so every label, stays.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from distill.errors import SettingsError
from distill.labels import Logits
from distill.metrics import negative_log_likelihood

RANGE = (0.05, 20.0)


def fitted_temperature(label_ids: NDArray[np.int64], logits: Logits) -> float:
    """Return the temperature with the smallest negative log-likelihood, within `RANGE`.

    With one label a text it is not 1 only where confidence and truth disagree on these texts.

    Args:
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        logits: Shape (texts, labels).
    """
    # Convex in 1 / temperature, so that a golden section in its logarithm finds the one minimum.
    low, high = np.log(RANGE[0]), np.log(RANGE[1])
    golden = (np.sqrt(5) - 1) / 2

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(label_ids, (logits / np.exp(logarithm)).astype(np.float32))

    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide what the model answers by a temperature, in the weights of its last product.

    Raises:
        SettingsError: There is no such product.
    """
    prefix = f"{model.base_model_prefix}."
    products = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(prefix) and module.out_features == model.config.num_labels
    ]
    if not products:
        raise SettingsError(f"{type(model).__name__} has no product that gives the logits, so it cannot be calibrated")
    with torch.no_grad():
        products[-1].weight.div_(temperature)
        if products[-1].bias is not None:
            products[-1].bias.div_(temperature)
