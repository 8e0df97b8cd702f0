"""The named students: what each is made of and how it learns.

Values only. `potstill distill --recipe`, `potstill fit` and the benchmarks all train students from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from distill.settings import LEARNING_RATES, DistillSettings


@dataclass(frozen=True)
class Recipe:
    """One way of making a student.

    Attributes:
        name: Its name in flags, tables and figures.
        summary: What the student is, in one line, for help texts.
        settings: Everything but the seed.
        assistant: The recipe whose student it is made of; None: the teacher's layers.
    """

    name: str
    summary: str
    settings: DistillSettings
    assistant: str | None = None


def _taught(**changes: Any) -> DistillSettings:
    """Return the settings that all recipes share, with these changes."""
    shared = DistillSettings(
        num_layers=2,
        vocabulary_size=10_000,
        vocabulary_from="labelled",
        vocabulary_characters="seen",
        soft_weight=0.9,
        temperature=2.0,
        augment=4,
        epochs=2,
        batch_size=64,
        learning_rate=2e-4,
    )
    return shared.model_copy(update=changes)


_ALL: Final = (
    Recipe("6-layers", "6 layers, near the teacher's quality", _taught(num_layers=6, epochs=1)),
    Recipe("3-layers", "3 layers", _taught(num_layers=3, epochs=1)),
    Recipe("2-layers", "2 layers", _taught()),
    Recipe(
        "slim",
        "2 layers with a feed-forward of 384",
        _taught(intermediate_size=384, learning_rate=4e-4),
        assistant="2-layers",
    ),
    Recipe(
        "narrow",
        "2 layers, half as wide",
        _taught(hidden_size=192, intermediate_size=768, learning_rate=6e-4),
        assistant="2-layers",
    ),
    Recipe(
        "1-layer",
        "1 layer whose token embeddings see their neighbours",
        _taught(num_layers=1, layers=(0,), embedding_window=3, epochs=3, batch_size=128, learning_rate=7e-4),
        assistant="2-layers",
    ),
    Recipe(
        "static",
        "token vectors and a small convolution, no layers",
        # No layers that could forget, so the rate is higher, and soft targets are all it learns from.
        _taught(
            kind="static",
            num_layers=None,
            vocabulary_from="all",
            soft_weight=1.0,
            epochs=4,
            learning_rate=LEARNING_RATES["static"],
        ),
    ),
)

RECIPES: Final[Mapping[str, Recipe]] = {recipe.name: recipe for recipe in _ALL}
"""The recipes by name, from the largest student to the fastest."""
