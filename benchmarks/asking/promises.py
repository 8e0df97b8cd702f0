"""What a cascade promises about its agreement, against the true probabilities of a simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from distill.errors import GateError
from export.runtime.cascade import choose_threshold

STRENGTH: Final = 2.0
DIFFERING_AT_0: Final = 0.5

Row = dict[str, Any]


@dataclass(frozen=True)
class Promises:
    """How often something is promised, and what.

    Attributes:
        drawings: Validation sets that a threshold is chosen on.
        validation_texts: Texts of each.
        agreement: What is promised.
        confidence: How surely.
    """

    drawings: int = 200
    validation_texts: int = 800
    agreement: float = 0.95
    confidence: float = 0.95


def promise_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of the rows there are; drawings without a threshold promise nothing."""
    made = [row for row in rows if row["kind"] == "promise" and not row["refused"]]
    if not made:
        return {}
    return {
        "bound_holds_share": sum(row["holds"] for row in made) / len(made),
        "answered_share_of_oracle": float(np.mean([row["student_share"] for row in made])) / oracle_share(made[0]["agreement"]),
    }


def promises(plan: Promises) -> list[Row]:
    """Choose a threshold on each of many validation sets, and compare what it promises with the true probabilities.

    The student's strength is exponentially distributed, and the surer it is, the seldomer it differs from its fallback.
    """
    generator = np.random.default_rng(0)
    return [
        {"kind": "promise", "name": f"promise-{number:03d}", **_promise(generator, plan)} for number in range(plan.drawings)
    ]


def _promise(generator: np.random.Generator, plan: Promises) -> Row:
    strength = generator.exponential(STRENGTH, plan.validation_texts)
    top, names = generator.integers(0, 2, len(strength)), np.eye(2, dtype=np.float32)
    fallback = np.where(generator.uniform(size=len(top)) < DIFFERING_AT_0 * np.exp(-strength), 1 - top, top)
    try:
        found = choose_threshold(
            student_logits=(strength[:, None] * names[top]).astype(np.float32),
            fallback_logits=names[fallback],
            labels=np.where(generator.uniform(size=len(top)) < 0.9, fallback, 1 - fallback),
            problem_type="single_label_classification",
            wanted_agreement=plan.agreement,
            graphs={"student_graph_sha256": "", "fallback_graph_sha256": ""},
            confidence=plan.confidence,
        )
    except GateError:
        return {"agreement": plan.agreement, "refused": True, "holds": False, "student_share": 0.0}
    lowest = found.temperature * math.log(found.min_confidence / (1 - found.min_confidence))
    return {
        "agreement": plan.agreement,
        "refused": False,
        "true_agreement": 1 - _differing_above(lowest),
        "holds": 1 - _differing_above(lowest) >= plan.agreement,
        "student_share": math.exp(-lowest / STRENGTH),
    }


def _differing_above(strength: float) -> float:
    """Return the share of all texts on which a student of at least this strength differs from its fallback."""
    rate = 1 + 1 / STRENGTH
    return DIFFERING_AT_0 / STRENGTH / rate * math.exp(-rate * strength)


def oracle_share(agreement: float) -> float:
    """Return the share that the student may answer where the true probabilities are known."""
    rate = 1 + 1 / STRENGTH
    lowest = max(0.0, -math.log((1 - agreement) * STRENGTH * rate / DIFFERING_AT_0) / rate)
    return math.exp(-lowest / STRENGTH)
