"""How the runs of the `transfer` scenario are trained. Values only."""

from __future__ import annotations

from typing import Final

from benchmarks.transfer_figures import LABELS_A_CLASS
from distill.settings import DistillSettings
from distill.transfer_settings import CarrySettings

FEW: Final = CarrySettings(
    shots=LABELS_A_CLASS, epochs=5, batch_size=16, learning_rate=1e-4, patience=5, mixed_precision="auto"
)
"""How every cell with 200 labels is trained, whatever it begins with: 160 to learn from and 40 to choose the epoch."""

CHOICE_TEXTS: Final = 500
CHOICE: Final = CarrySettings(epochs=2, batch_size=16, learning_rate=5e-5, mixed_precision="auto")
"""How a candidate is really fine-tuned, to see whether its rank was right."""

STUDENT: Final = DistillSettings(
    num_layers=3, max_length=64, soft_weight=1.0, augment=2, augment_from="unlabeled", epochs=2, learning_rate=1e-4
)
LABELLED_BESIDE: Final = 1000
"""Labelled movie sentences that the student of an unlabelled domain also learns from."""
