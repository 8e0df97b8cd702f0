"""The plan of a run: which forms keep the budget, and about how many minutes each stage will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from distill.recipes import Effort, Stage
from distill.training.pace import BACKWARD
from export.fitting.choose import MEGABYTE, exceeded
from export.fitting.reporting.result import Budget
from export.fitting.weighing import FEWEST_HALVED, RUNG_SHARE, Candidates, Form
from export.measure.tables import Table

GRAPHS_MIN: Final = 0.05
"""Minutes for the graph of a form."""
CHOICE_MIN: Final = 0.2
MEASURING_MIN: Final[Mapping[Effort, float]] = {"quick": 1.0, "standard": 5.0, "thorough": 5.0}
"""Like those above, rounded from runs on the built-in task with two cores; most of them goes into the teacher."""
CONTROL_SHARE: Final = 0.4
"""Guessed: the share of the student's steps after which its control stops."""


EXCEEDS: Final = {"max_ms": "too slow", "max_mb": "too big"}


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        candidates: All forms.
        budget: Of a form.
        minutes: Expected, by stage.
        effort: As the time limit allows.
    """

    candidates: Candidates
    budget: Budget
    minutes: Mapping[str, float]
    effort: Effort

    @property
    def within(self) -> tuple[Form, ...]:
        """The forms that keep the budgets of time and size, untrained."""
        return within_budget(self.candidates, self.budget)

    @property
    def total_min(self) -> float:
        """Expected minutes of all stages."""
        return sum(self.minutes.values())

    def words(self) -> str:
        """Return how many students keep the budget, and how long the rest will take."""
        return (
            f"{len(self.within)} of {len(self.candidates.forms)} students keep the budget "
            f"({', '.join(form.name for form in self.within) or 'none'}); about {self.total_min:.0f} minutes from here"
        )

    def lines(self) -> list[str]:
        """Return the expected minutes of each stage, and of all."""
        stages = ", ".join(f"{name} {minutes:.1f}" for name, minutes in self.minutes.items())
        return [
            f"{len(self.within)} of {len(self.candidates.forms)} students keep the budget",
            f"about {self.total_min:.0f} minutes with --effort {self.effort}: {stages}" if self.minutes else "",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "effort": self.effort,
            "minutes": {name: round(minutes, 2) for name, minutes in self.minutes.items()},
            "total_min": round(self.total_min, 2),
            "forms": [
                {
                    "name": form.name,
                    "predicted_ms": round(form.costs.ms, 4),
                    "predicted_bytes": form.costs.size_bytes,
                    "keeps_budget": form in self.within,
                }
                for form in self.candidates.forms
            ],
        }

    def table(self) -> Table:
        """Return one row for each form: name, whether it keeps the budget or what it exceeds, predicted ms and MB."""
        cells = [
            [
                form.name,
                " and ".join(EXCEEDS[name] for name in exceeded(form.costs, self.budget)) or "yes",
                f"{form.costs.ms:.2f}",
                f"{form.costs.size_bytes / MEGABYTE:.1f}",
            ]
            for form in self.candidates.forms
        ]
        return ("student", "keeps the budget", "predicted ms", "predicted MB"), cells


def within_budget(candidates: Candidates, budget: Budget) -> tuple[Form, ...]:
    """Return the forms that keep the budgets of time and size, untrained."""
    return tuple(form for form in candidates.forms if not exceeded(form.costs, budget))


def planned_minutes(
    candidates: Candidates,
    names: Sequence[str],
    *,
    effort: Effort,
    num_texts: int,
    teacher_views: int,
    halving: bool,
    ways: int = 0,
) -> dict[str, float]:
    """Return the expected minutes of each stage.

    Args:
        candidates: The forms, and how long a step of each recipe takes.
        names: The recipes that keep the budget, the fastest first.
        effort: Decides how much is measured.
        num_texts: Labelled and unlabelled texts.
        teacher_views: Texts that the teacher is fine-tuned on, counting one once per epoch; 0 if it is given.
        halving: Whether the weaker half is stopped after `RUNG_SHARE`.
        ways: How many ways to treat unsure answers are tried, each with `RUNG_SHARE` of the fastest student's training.
    """
    if not names:
        return {}
    needed = {stage.name: stage for name in names for stage in candidates.stages[name][:-1]}
    step = candidates.step_s
    slowest = max(step.values())
    own = [
        _views(candidates.stages[name][-1], num_texts) * step[name]
        for name in names
        if candidates.stages[name][-1] != needed.get(name)
    ]
    before = [_views(stage, num_texts) * step.get(name, slowest) for name, stage in needed.items()]
    is_halved = halving and len(names) >= FEWEST_HALVED
    students = sum(own) * (RUNG_SHARE + 0.5 if is_halved else 1.0) + sum(before)
    students += ways * _views(candidates.in_part[names[0]][-1], num_texts) * step[names[0]]
    copies = max(candidates.stages[name][-1].settings.augment for name in names)
    asked = min(num_texts * (1 + copies), max(_views(candidates.stages[name][-1], num_texts) for name in names))
    return {
        "teacher": teacher_views * candidates.teacher_answer_s * BACKWARD / 60,
        "students": (asked * candidates.teacher_answer_s + students) / 60,
        "graphs": GRAPHS_MIN * 2 * (len(names) / 2 if is_halved else len(names)),
        "choice": CHOICE_MIN,
        "control": CONTROL_SHARE * (max(own) if own else 0.0) / 60,
        "measuring": MEASURING_MIN[effort],
    }


def left_s(candidates: Candidates, chains: Sequence[Sequence[Stage]], num_texts: int, *, done: int = 0) -> float:
    """Return about how many seconds it takes to train students one after the other.

    Args:
        candidates: How long a step of each recipe takes.
        chains: Of each student its assistants and itself; a stage of several is trained once.
        num_texts: Labelled and unlabelled texts.
        done: How many of them are trained.
    """
    there = [stage for chain in chains[:done] for stage in chain]
    to_do: list[Stage] = []
    for chain in chains[done:]:
        to_do += [stage for stage in chain if stage not in there and stage not in to_do]
    step, slowest = candidates.step_s, max(candidates.step_s.values())
    return sum(_views(stage, num_texts) * step.get(stage.name, slowest) for stage in to_do)


def _views(stage: Stage, num_texts: int) -> int:
    settings = stage.settings
    texts = num_texts if settings.max_texts is None else min(num_texts, settings.max_texts)
    return texts * (1 + settings.augment) * settings.epochs
