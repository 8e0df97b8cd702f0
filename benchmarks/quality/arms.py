"""The arms of the `quality` scenario: the recipes, and the control.

Values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from distill.recipes import RECIPES, Effort, Recipe

TASK: Final = "builtin:movies"
UNLABELED: Final = ("builtin:amazon", "builtin:tweets", "builtin:nyt")
TEACHER: Final = "teacher"
SEEDS: Final = (0, 1, 2, 3, 4)
EFFORT: Final[Effort] = "thorough"


@dataclass(frozen=True)
class Arm:
    """One way of making a student.

    Attributes:
        shown_as: Its name in tables.
        recipe: How it is trained.
        changes: Settings that differ from the recipe's.
        assistant: The arm whose student of the same seed this one is made of; None: the teacher's layers.
        control: Whether this is the control of that student: the labels alone, for as many steps.
        shipped: Whether its graphs are written and measured too.
    """

    shown_as: str
    recipe: Recipe
    changes: Mapping[str, Any] = field(default_factory=dict)
    assistant: str | None = None
    control: bool = False
    shipped: bool = True


ARMS: Final[dict[str, Arm]] = {
    "3_layers": Arm("3 layers", RECIPES["3-layers"]),
    "2_layers": Arm("2 layers", RECIPES["2-layers"]),
    "1_layer": Arm("1 layer", RECIPES["1-layer"], assistant="2_layers"),
    "2_layers_slim": Arm("2 layers, feed-forward of 384", RECIPES["slim"], assistant="2_layers"),
    "narrow": Arm("2 layers of 192", RECIPES["narrow"], assistant="2_layers"),
    "static": Arm("static", RECIPES["static"]),
    "2_layers_control": Arm("2 layers, no distillation", RECIPES["2-layers"], control=True, shipped=False),
}
"""By their names in the result file. A student's teacher is the reference teacher of its own seed, as a user has one."""
