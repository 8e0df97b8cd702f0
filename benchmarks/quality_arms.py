"""The arms of the `quality` scenario: which students are trained, from what, and how.

Values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from distill.settings import DistillSettings

TASK: Final = "builtin:movies"
UNLABELED: Final = ("builtin:amazon", "builtin:tweets", "builtin:nyt")
TEACHER: Final = "teacher"
SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True)
class Arm:
    """One way of making a student.

    Attributes:
        shown_as: Its name in tables.
        settings: All but the seed.
        distilled: False for the control, which learns from the labelled texts alone.
        shipped: Whether its graphs are written and measured too.
    """

    shown_as: str
    settings: DistillSettings
    distilled: bool = True
    shipped: bool = True


def _taught(**changes: Any) -> DistillSettings:
    """Return the recipe that all arms share, with what an arm changes.

    Soft targets are the mean logits of the three reference teachers; each student learns from the labelled texts, the other
    domains' texts without their labels, and noisy copies of both.
    """
    recipe = DistillSettings(
        num_layers=2,
        vocabulary_size=10_000,
        vocabulary_from="labelled",
        max_length=64,
        soft_weight=0.9,
        temperature=2.0,
        augment=4,
        epochs=2,
        batch_size=64,
        learning_rate=2e-4,
    )
    return recipe.model_copy(update=changes)


ARMS: Final[dict[str, Arm]] = {
    "3_layers": Arm("3 layers", _taught(num_layers=3)),
    "2_layers": Arm("2 layers", _taught()),
    "2_layers_whole_vocabulary": Arm("2 layers, whole vocabulary", _taught(vocabulary_size=None), shipped=False),
    # As many steps as its twin's at most: 26 passes over the labelled texts alone; the best of them is kept.
    "2_layers_control": Arm(
        "2 layers, no distillation",
        _taught(soft_weight=0.0, augment=0, epochs=26, patience=8),
        distilled=False,
        shipped=False,
    ),
}
