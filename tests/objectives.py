"""The objective that most tests train with."""

from __future__ import annotations

from distill.losses.logits import HardLabels, SoftTargets
from distill.losses.objective import Objective, mixed


def mixed_objective(*, soft_weight: float = 0.0, temperature: float = 1.0) -> Objective:
    """Return the soft and the hard term, mixed as in every distillation; by default plain fine-tuning."""
    return Objective(mixed(soft=SoftTargets(temperature=temperature), hard=HardLabels(), soft_weight=soft_weight))
