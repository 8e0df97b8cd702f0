"""How the runs of the `transfer` scenario are trained: settings only."""

from __future__ import annotations

from typing import Final

from distill.settings import DistillSettings
from distill.transfer_settings import CarrySettings


def few_settings(shots: int, *, seed: int = 0) -> CarrySettings:
    """How a cell with few labels is trained, whatever it begins with: a fifth of the labels choose the epoch.

    Args:
        shots: Labels a class; with under 100 there are more epochs, as an epoch has only a step or a few.
        seed: Of the run.
    """
    epochs = min(20, max(5, 250 // shots))
    return CarrySettings(
        shots=shots, epochs=epochs, batch_size=16, learning_rate=1e-4, patience=epochs, mixed_precision="auto", seed=seed
    )


CHOICE_TEXTS: Final = 500
CHOICE: Final = CarrySettings(epochs=2, batch_size=16, learning_rate=5e-5, mixed_precision="auto")
"""How a candidate is really fine-tuned, to see whether its rank was right."""

STUDENT: Final = DistillSettings(
    num_layers=3, max_length=64, soft_weight=1.0, augment=2, augment_from="unlabeled", epochs=2, learning_rate=1e-4
)
LABELLED_BESIDE: Final = 1000
"""Labelled movie sentences that the student of an unlabelled domain also learns from."""
