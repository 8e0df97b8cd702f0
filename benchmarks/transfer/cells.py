"""Which cells the `transfer` scenario has: what each is, before anything of it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

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
    UNLABELLED_RECIPES,
    chosen_recipe,
)

PARTS = ("teachers", "features", "few", "stand_in", "unlabelled", "choice", "floors", "curve", "tasks", "language")


def cells_of(seed: int, finished: Pieces) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the part and the row of each cell of a seed; what does not depend on the seed only with the first.

    Args:
        seed: Of the runs.
        finished: The rows that there are: the recipe of the students without labels is chosen by them.
    """
    once, (carried, curved) = seed == SEEDS[0], CURVE_PAIR
    for source, target in product(DOMAINS, DOMAINS):
        yield "teachers", cell(f"whole-{source}-{target}-{seed}", "whole", seed, source=source, target=target)
    yield "features", cell(f"features-{seed}", "features", seed, target="movies")
    for source, target in product(DOMAINS, DOMAINS):
        yield "few", cell(f"few-{source}-{target}-{seed}", "few", seed, source=source, target=target)
    for target in DOMAINS if once else ():
        yield "few", cell(f"scratch-{FROM_SCRATCH}-{target}-{seed}", "scratch", seed, source=FROM_SCRATCH, target=target)
    for recipe in UNLABELLED_RECIPES if once else ():
        yield "stand_in", cell(f"stand-in-{recipe}-{seed}", "stand_in", seed, recipe=recipe, target=STAND_IN)
    recipe_of_all = chosen_recipe(finished.all())
    chosen = {} if recipe_of_all is None else {"recipe": recipe_of_all}
    for target in (domain for domain in DOMAINS if domain != STAND_IN):
        others = {"source": "the other three", "target": target, **chosen}
        yield "unlabelled", cell(f"unlabelled-{target}-{seed}", "unlabelled", seed, **others)
    for task in TASKS:
        yield "choice", cell(f"choice-{task}-{seed}", "choice", seed, task=task)
    for source, target in product(("tfidf", "majority"), DOMAINS if once else ()):
        yield "floors", cell(f"floor-{source}-{target}-all", "floor", seed, source=source, target=target)
    few = [("floors", target, LABELS_A_CLASS) for target in DOMAINS]
    for part, target, shots in (*few, *(("curve", curved, shots) for shots in CURVE_SHOTS)):
        yield part, cell(f"floor-tfidf-{target}-{shots}-{seed}", "floor", seed, source="tfidf", target=target, shots=shots)
    for shots, source, way in product(CURVE_SHOTS, (carried, curved), ("features", "parameters")):
        if way == "features" or shots != LABELS_A_CLASS:  # else it is one of the part `few`
            point = {"way": way, "source": source, "target": curved, "shots": shots}
            yield "curve", cell(f"curve-{way}-{source}-{curved}-{shots}-{seed}", "curve", seed, **point)
    for task, origin in ((task, origin) for task, origins in CROSS_TASKS.items() for origin in origins):
        yield "tasks", cell(f"task-{task}-{origin}-{seed}", "task", seed, task=task, origin=origin)
    for origin in LANGUAGE_ORIGINS:
        yield "language", cell(f"language-{origin}-{seed}", "language", seed, origin=origin)


def cell(name: str, kind: str, seed: int, **more: Any) -> dict[str, Any]:
    """Return what the row of a cell says before it is made."""
    return {"name": name, "kind": kind, **more, "seed": seed}
