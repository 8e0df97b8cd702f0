"""The hard term: cross-entropy against the labels of the data."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from distill.training.losses.term import UNLABELLED, Seen, Term


class HardLabels(Term):
    """-log of the probability that the student gives the true class, in nats; 0 where there is no label."""

    name: ClassVar[str] = "hard"
    class_weights: Tensor | None

    def __init__(self, *, class_weights: NDArray[np.float32] | None = None) -> None:
        """Take what a text of each class counts, shape (num_labels,); None is 1 each."""
        super().__init__()
        weights = None if class_weights is None else torch.from_numpy(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        return functional.cross_entropy(
            seen.student_logits, seen.labels, weight=self.class_weights, ignore_index=UNLABELLED, reduction="none"
        )


def balanced_weights(label_ids: NDArray[np.int64], num_labels: int) -> NDArray[np.float32]:
    """Return weights with which every class counts the same in all: texts / (classes * texts of the class).

    Their mean over the texts is 1, so that the term keeps its size.

    Args:
        label_ids: Class ids, shape (texts,); `UNLABELLED` is passed over.
        num_labels: Classes; one that no text has weighs 1, which nothing is multiplied with.
    """
    counts = np.bincount(label_ids[label_ids != UNLABELLED], minlength=num_labels)
    present = counts > 0
    weights = np.ones(num_labels, dtype=np.float32)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights
