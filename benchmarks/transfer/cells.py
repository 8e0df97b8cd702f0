"""Which cells the `transfer` scenario has: what each is, before anything of it is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from benchmarks.harness.pieces import Pieces
from benchmarks.transfer.figures import (
    CROSS_TASKS,
    CURVE_PAIR,
    CURVE_SHOTS,
    DOMAINS,
    FROM_SCRATCH,
    LABELS_A_CLASS,
    LANGUAGE_ORIGINS,
    SEEDS,
    STAND_IN,
    TASKS,
    chosen_recipe,
)
from benchmarks.transfer.recipes import UNLABELLED


@dataclass(frozen=True)
class Family:
    """Cells of one kind: one for each combination of values, and each seed.

    Attributes:
        part: They are made with it.
        kind: Says how they are made.
        name: Of a cell, with its values and its seed.
        values: What each part of its row may be.
        once: Whether they do not depend on the seed, and are made with the first only.
    """

    part: str
    kind: str
    name: str
    values: Mapping[str, Sequence[str | int]]
    once: bool = False


PAIRS: Final = {"source": DOMAINS, "target": DOMAINS}
POINTS: Final = {"source": CURVE_PAIR, "target": CURVE_PAIR[1:]}
FLOOR = "floor-{source}-{target}-{shots}-{seed}"
CURVE = "curve-{way}-{source}-{target}-{shots}-{seed}"
FAMILIES: Final = (
    Family("teachers", "whole", "whole-{source}-{target}-{seed}", PAIRS),
    Family("features", "features", "features-{seed}", {"target": ("movies",)}),
    Family("few", "few", "few-{source}-{target}-{seed}", PAIRS),
    Family("few", "scratch", "scratch-{source}-{target}-{seed}", {"source": (FROM_SCRATCH,), "target": DOMAINS}, once=True),
    Family("stand_in", "stand_in", "stand-in-{recipe}-{seed}", {"recipe": tuple(UNLABELLED), "target": (STAND_IN,)}, once=True),
    Family(
        "unlabelled",
        "unlabelled",
        "unlabelled-{target}-{seed}",
        {"source": ("the other three",), "target": [domain for domain in DOMAINS if domain != STAND_IN]},
    ),
    Family("choice", "choice", "choice-{task}-{seed}", {"task": TASKS}),
    Family("floors", "floor", "floor-{source}-{target}-all", {"source": ("tfidf", "majority"), "target": DOMAINS}, once=True),
    Family("floors", "floor", FLOOR, {"source": ("tfidf",), "target": DOMAINS, "shots": (LABELS_A_CLASS,)}),
    Family("curve", "floor", FLOOR, {"source": ("tfidf",), "target": CURVE_PAIR[1:], "shots": CURVE_SHOTS}),
    Family("curve", "curve", CURVE, {"way": ("features",), **POINTS, "shots": CURVE_SHOTS}),
    # What is fine-tuned on 100 labels a class is a cell of the part `few`.
    Family(
        "curve",
        "curve",
        CURVE,
        {"way": ("parameters",), **POINTS, "shots": [shots for shots in CURVE_SHOTS if shots != LABELS_A_CLASS]},
    ),
    *(
        Family("tasks", "task", "task-{task}-{origin}-{seed}", {"task": (task,), "origin": origins})
        for task, origins in CROSS_TASKS.items()
    ),
    Family("language", "language", "language-{origin}-{seed}", {"origin": LANGUAGE_ORIGINS}),
)
PARTS: Final = tuple(dict.fromkeys(family.part for family in FAMILIES))


def cells_of(seed: int, finished: Pieces) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the part and the row of each cell of a seed; what does not depend on the seed only with the first.

    Args:
        seed: Of the runs.
        finished: The rows that there are: the recipe of the students without labels is chosen by them.
    """
    for family in FAMILIES:
        recipe = chosen_recipe(finished.all()) if family.kind == "unlabelled" else None
        chosen = {} if recipe is None else {"recipe": recipe}
        for values in product(*family.values.values()) if seed == SEEDS[0] or not family.once else ():
            row = {"kind": family.kind, **dict(zip(family.values, values, strict=True)), **chosen, "seed": seed}
            yield family.part, {"name": family.name.format(**row), **row}
