"""The arms of the `quality` scenario: which students are trained, from what, and how.

Values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from distill.settings import LEARNING_RATES, DistillSettings

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
        assistant: The arm whose student of the same seed this one is made of; without it, the teacher's layers.
        control: Whether this is the control of that student: the labels alone, for as many steps.
        shipped: Whether its graphs are written and measured too.
    """

    shown_as: str
    settings: DistillSettings
    assistant: str | None = None
    control: bool = False
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
        vocabulary_characters="seen",
        max_length=64,
        soft_weight=0.9,
        temperature=2.0,
        augment=4,
        epochs=2,
        batch_size=64,
        learning_rate=2e-4,
    )
    return recipe.model_copy(update=changes)


# No layers, so nothing is in danger of being forgotten: the rate is higher, and the teacher's word is all it learns from.
_STATIC: Final = _taught(
    kind="static", num_layers=None, vocabulary_from="all", soft_weight=1.0, epochs=4, learning_rate=LEARNING_RATES["static"]
)

_ONE_LAYER: Final = _taught(num_layers=1, layers=(0,), embedding_window=3, epochs=3, batch_size=128, learning_rate=7e-4)

_WHOLE: Final[dict[str, Any]] = {"vocabulary_size": None, "vocabulary_from": "all", "vocabulary_characters": "all"}

ARMS: Final[dict[str, Arm]] = {
    "3_layers": Arm("3 layers", _taught(num_layers=3, epochs=1)),
    "2_layers": Arm("2 layers", _taught()),
    "1_layer": Arm("1 layer", _ONE_LAYER, assistant="2_layers"),
    "2_layers_slim": Arm(
        "2 layers, feed-forward of 384", _taught(intermediate_size=384, learning_rate=4e-4), assistant="2_layers"
    ),
    "narrow": Arm("2 layers of 192", _taught(hidden_size=192, intermediate_size=768, learning_rate=6e-4), assistant="2_layers"),
    "static": Arm("static", _STATIC),
    "2_layers_whole_vocabulary": Arm("2 layers, whole vocabulary", _taught(**_WHOLE), shipped=False),
    "3_layers_whole_vocabulary": Arm("3 layers, whole vocabulary", _taught(num_layers=3, epochs=1, **_WHOLE), shipped=False),
    "1_layer_whole_vocabulary": Arm(
        "1 layer, whole vocabulary", _ONE_LAYER.model_copy(update=_WHOLE), assistant="2_layers_whole_vocabulary", shipped=False
    ),
    "static_whole_vocabulary": Arm("static, whole vocabulary", _STATIC.model_copy(update=_WHOLE), shipped=False),
    "2_layers_control": Arm("2 layers, no distillation", _taught(), control=True, shipped=False),
}
