"""The named students: what each is made of, and how it learns, from the texts there are.

Values and pure functions only. `potstill distill --recipe`, `potstill fit` and the benchmarks all train students from here;
`distill.training.by_recipe` trains them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import numpy as np
from pydantic import Field

from distill.errors import SettingsError
from distill.measured import MEASURED
from distill.settings import (
    LEARNING_RATES,
    AugmentSettings,
    Device,
    DistillSettings,
    Settings,
    StudentSettings,
    TransferSetSettings,
)

RecipeName = Literal["6-layers", "3-layers", "2-layers", "slim", "narrow", "1-layer", "static"]
Effort = Literal["quick", "standard", "thorough"]


@dataclass(frozen=True)
class Recipe:
    """One way of making a student.

    Attributes:
        name: Its name in flags, tables and figures.
        summary: What the student is, in one line, for help texts.
        settings: Everything that does not depend on the texts, except the seed.
        views: How many texts the student sees, counting a text once per epoch; an effort takes a multiple of it.
        assistant: The recipe whose student it is made of; None: the teacher's layers.
    """

    name: RecipeName
    summary: str
    settings: DistillSettings
    views: int
    assistant: RecipeName | None = None


def _taught(**changes: Any) -> DistillSettings:
    """Return the settings that all recipes share, with these changes."""
    shared = DistillSettings(
        num_layers=2,
        vocabulary_size=10_000,
        vocabulary_from="labelled",
        vocabulary_characters="seen",
        soft_weight=0.9,
        temperature=2.0,
        batch_size=64,
        learning_rate=2e-4,
    )
    return shared.model_copy(update=changes)


_ALL: Final = (
    Recipe("6-layers", "6 layers, near the teacher's quality", _taught(num_layers=6), views=40_000),
    Recipe("3-layers", "3 layers", _taught(num_layers=3), views=40_000),
    Recipe("2-layers", "2 layers", _taught(), views=80_000),
    Recipe(
        "slim",
        "2 layers with a feed-forward of 384",
        _taught(intermediate_size=384, learning_rate=4e-4),
        views=80_000,
        assistant="2-layers",
    ),
    Recipe(
        "narrow",
        "2 layers, half as wide",
        _taught(hidden_size=192, intermediate_size=768, learning_rate=6e-4),
        views=80_000,
        assistant="2-layers",
    ),
    Recipe(
        "1-layer",
        "1 layer whose token embeddings see their neighbours",
        _taught(num_layers=1, layers=(0,), embedding_window=3, batch_size=128, learning_rate=7e-4),
        views=120_000,
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
            learning_rate=LEARNING_RATES["static"],
        ),
        views=160_000,
    ),
)

RECIPES: Final[Mapping[str, Recipe]] = {recipe.name: recipe for recipe in _ALL}
"""The recipes by name, from the largest student to the fastest."""


@dataclass(frozen=True)
class _Amount:
    """What an effort changes.

    Attributes:
        share: Of a recipe's views.
        as_assistant: The same where the student only starts another one.
        distinct_texts: How many different texts the copies should make up.
        recipes: What `potstill fit` considers.
    """

    share: float
    as_assistant: float
    distinct_texts: int
    recipes: tuple[RecipeName, ...] = tuple(recipe.name for recipe in _ALL)


_AMOUNTS: Final[Mapping[Effort, _Amount]] = {
    # The fastest, the smallest, and the assistant that the smallest is made of: with equal shares it costs nothing more.
    "quick": _Amount(0.25, 0.25, 10_000, recipes=("2-layers", "narrow", "static")),
    "standard": _Amount(2.0, 0.5, 40_000),
    "thorough": _Amount(2.5, 2.5, 100_000),
}
MAX_COPIES: Final = 20
"""As many as TinyBERT (Jiao et al., 2020) makes of the smallest sets."""
MAX_EPOCHS: Final = 20
ONE_PASS: Final = 0.75
"""Views as a share of the texts from which one pass over all of them is made instead of sampling."""
MIN_STEPS: Final = 600
"""Below, the batch is halved, down to `MIN_BATCH_SIZE`."""
MIN_BATCH_SIZE: Final = 16
FULL_VIEWS_TOKENS: Final = 32
"""Mean tokens of a text up to which a recipe gets all its views. Of longer texts it gets fewer, in proportion."""
LENGTH_PERCENTILE: Final = 99
LENGTH_STEP: Final = 16


def recipes_for(effort: Effort) -> tuple[RecipeName, ...]:
    """Return the recipes that `potstill fit` considers where none are named, from the largest student to the fastest."""
    return _AMOUNTS[effort].recipes


@dataclass(frozen=True)
class TextFacts:
    """What the settings of a recipe depend on.

    Attributes:
        num_labelled: Training texts with labels.
        num_unlabelled: Texts without.
        token_lengths: Tokens of the labelled texts, not truncated.
        max_length: Maximum tokens that the teacher reads; None if it does not say.
        answers_new_texts: Whether the teacher can label noisy copies; recorded logits cannot.
    """

    num_labelled: int
    num_unlabelled: int
    token_lengths: Sequence[int] | np.ndarray
    max_length: int | None = None
    answers_new_texts: bool = True


@dataclass(frozen=True)
class RecipeOptions:
    """What a caller may change of a recipe.

    Attributes:
        effort: How much training, and how many noisy copies.
        seed: Of the student and its assistants.
        share: Share of the student's own training; its assistants are trained in full.
        changes: Settings that override those of the recipe; those in `SHARED` also override the assistants'.
    """

    effort: Effort = "standard"
    seed: int = 0
    share: float = 1.0
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> Device:
        """Where the student and its assistants are trained."""
        device: Device = self.changes.get("device", "auto")
        return device


SHARED: Final = frozenset(
    {"seed", "device", "mixed_precision", "checkpoint_every_s", "track", "max_length"}
    | set(AugmentSettings.model_fields)
    | set(TransferSetSettings.model_fields)
)
"""Settings that a student and its assistants have in common: the texts, and how they are computed."""

_SHAPE: Final = frozenset(set(StudentSettings.model_fields) - {"max_length"})


def require_no_shape(changes: Mapping[str, Any]) -> None:
    """Refuse changes to what a recipe's student is made of.

    Raises:
        SettingsError: A setting that shapes the student.
    """
    if shaping := sorted(_SHAPE & changes.keys()):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in shaping)
        raise SettingsError(f"--recipe decides what the student is made of; leave out {flags}, or leave out --recipe")


def _described(recipe: Recipe) -> str:
    found = MEASURED.get(recipe.name)
    figures = f" ({found.kept:.1%}, {found.times_faster:.0f}x, {found.megabytes} MB)" if found else ""
    return f"{recipe.name}: {recipe.summary}{figures}"


class RecipeSettings(Settings, heading="Student"):
    """Which named student is made, and how much training it gets."""

    recipe: RecipeName | None = Field(
        None,
        description="make a named student, with its assistant if it has one (kept in OUT-assistants): "
        + "; ".join(_described(recipe) for recipe in _ALL)
        + ". In brackets, with effort thorough on the built-in task: share of the teacher's macro-F1; speed-up and "
        + "size in int8. Other flags override its values, except those that shape the student",
    )
    effort: Effort = Field("standard", description="how long a recipe trains, and on how many noisy copies of each text")

    def recipe_for(self, settings: DistillSettings) -> tuple[Recipe, RecipeOptions] | tuple[None, None]:
        """Return the recipe and its options: the settings that were given, not those left at their default.

        Raises:
            SettingsError: An effort without a recipe, or a setting that contradicts the recipe.
        """
        if self.recipe is None:
            if "effort" in self.model_fields_set:
                raise SettingsError("--effort says how much training a recipe gets; name one with --recipe")
            return None, None
        changes = {name: getattr(settings, name) for name in settings.model_fields_set}
        require_no_shape(changes)
        return RECIPES[self.recipe], RecipeOptions(effort=self.effort, seed=settings.seed, changes=changes)


def settings_for(
    recipe: Recipe,
    facts: TextFacts,
    *,
    effort: Effort = "standard",
    share: float = 1.0,
    as_assistant: bool = False,
    changes: Mapping[str, Any] = {},
) -> DistillSettings:
    """Return the settings of a recipe's student for these texts; pure, so that it is known before anything is trained.

    Copies fill up small sets, and epochs follow from the number of views; texts beyond that number are left out. Copies do
    not depend on the recipe, so one set of teacher logits serves all recipes. An effort is an amount of computing: long texts
    are seen less often, but not in less than `MIN_STEPS` of the smallest batch.

    Args:
        recipe: The recipe.
        facts: The texts and what the teacher reads.
        effort: Share of the views, and how many different texts there should be.
        share: Share of that training.
        as_assistant: The student only starts another one, which needs less of it.
        changes: Settings that override these; the others are computed from them.
    """
    amount, texts, scale = _AMOUNTS[effort], facts.num_labelled + facts.num_unlabelled, _share_of_views(facts)
    copies = min(MAX_COPIES, max(0, round(scale * amount.distinct_texts / texts) - 1)) if facts.answers_new_texts else 0
    copies = int(changes.get("augment", copies))
    whole = recipe.views * (amount.as_assistant if as_assistant else amount.share)
    views = round(share * max(scale * whole, min(whole, MIN_STEPS * MIN_BATCH_SIZE)))
    distinct = texts * (1 + copies)
    epochs = int(changes.get("epochs", min(MAX_EPOCHS, max(1, round(views / distinct)))))
    batch_size, steps = recipe.settings.batch_size, min(views, epochs * distinct)
    while steps / batch_size < MIN_STEPS and batch_size > MIN_BATCH_SIZE:
        batch_size //= 2
    chosen = {
        "augment": copies,
        "epochs": epochs,
        "max_texts": math.ceil(views / (1 + copies)) if views < ONE_PASS * distinct and "epochs" not in changes else None,
        "patience": max(2, math.ceil(epochs / 4)),
        "batch_size": batch_size,
        # The noise of a gradient grows with the root of the rate's square over the batch size.
        "learning_rate": recipe.settings.learning_rate * math.sqrt(batch_size / recipe.settings.batch_size),
        "max_length": max_length_for(facts),
    }
    # Validated again: `model_copy` checks nothing, and the changes may come from a user.
    return DistillSettings(**{**recipe.settings.model_dump(), **chosen, **changes})


def _share_of_views(facts: TextFacts) -> float:
    read = np.minimum(facts.token_lengths, max_length_for(facts))
    return min(1.0, FULL_VIEWS_TOKENS / float(read.mean()))


def max_length_for(facts: TextFacts) -> int:
    """Return a length that truncates one text in a hundred at most, unless the teacher reads less."""
    wanted = math.ceil(np.percentile(facts.token_lengths, LENGTH_PERCENTILE) / LENGTH_STEP) * LENGTH_STEP
    return wanted if facts.max_length is None else min(wanted, facts.max_length)


@dataclass(frozen=True)
class Stage:
    """One student on the way: an assistant, or at the end the student itself.

    Attributes:
        name: The recipe's name, or any.
        settings: Its settings; those of a stage with one before it name no `student`: it is made of that one's.
    """

    name: str
    settings: DistillSettings


def stages_of(recipe: Recipe, facts: TextFacts, options: RecipeOptions, *, base: str | None = None) -> tuple[Stage, ...]:
    """Return the assistants of a recipe's student, in the order in which they are trained, and the student.

    Args:
        recipe: The recipe.
        facts: The texts and what the teacher reads.
        options: What is changed.
        base: A pretrained model that the students are made of instead of the teacher's layers.
    """
    require_no_shape(options.changes)
    changes = {**options.changes, "seed": options.seed}
    shared = {name: value for name, value in changes.items() if name in SHARED}
    chain = [recipe]
    while (assistant := _assistant_of(chain[0], base)) is not None:
        chain.insert(0, assistant)
    assistant_for = partial(settings_for, facts=facts, effort=options.effort, as_assistant=True, changes=shared)
    before = [Stage(one.name, assistant_for(one)) for one in chain[:-1]]
    own = settings_for(recipe, facts, effort=options.effort, share=options.share, changes=changes)
    stages = (*before, Stage(recipe.name, own))
    if base is None:
        return stages
    first = stages[0]
    return (Stage(first.name, first.settings.model_copy(update={"student": base})), *stages[1:])


def with_seed(stages: Sequence[Stage], seed: int) -> tuple[Stage, ...]:
    """Return the same stages with another seed."""
    return tuple(Stage(one.name, one.settings.model_copy(update={"seed": seed})) for one in stages)


def _assistant_of(recipe: Recipe, base: str | None) -> Recipe | None:
    """Return whose student a recipe's student is made of; of another base than the teacher, first its 6 layers are taught."""
    if recipe.assistant is not None:
        return RECIPES[recipe.assistant]
    return RECIPES["6-layers"] if base is not None and recipe.name != "6-layers" else None
