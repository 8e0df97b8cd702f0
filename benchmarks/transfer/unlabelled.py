"""The parts `stand_in` and `unlabelled` of the `transfer` scenario: students of a domain of which no label is known.

The teachers of the other domains label its texts. What else decides the student is chosen on a domain that stands in: its
labels measure, and no label of a target is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.transfer.bench import Bench, measured, quality_of, scratch, source_of
from benchmarks.transfer.figures import DOMAINS, SEEDS, STAND_IN, UNLABELLED_RECIPES, chosen_recipe
from benchmarks.transfer.recipes import LABELLED_A_SOURCE, LABELLED_OF_ONE, UNLABELLED
from distill.bundle import Bundle
from distill.data import Dataset, limited

STAND_IN_TEXTS = 2500
"""Texts of the stand-in that are learnt from without their labels: about as many as the targets have."""


def stand_in(bench: Bench, seed: int) -> None:
    """Each recipe on the stand-in, judged on training and validation texts of it that the student has not learnt from."""
    from distill.models.loading import load_bundle

    if seed != SEEDS[0]:
        return
    splits = bench.splits[STAND_IN]
    learnt = limited(splits.train, STAND_IN_TEXTS, seed=seed)
    known = set(learnt.texts)
    others = splits.train.take([row for row, text in enumerate(splits.train.texts) if text not in known])
    judge = together([others, splits.validation])
    for recipe in UNLABELLED_RECIPES:
        name = f"stand-in-{recipe}-{seed}"
        if bench.done(name):
            continue
        bench.reporter.say(f"{STAND_IN} as if without labels, {recipe.replace('_', ' ')}, seed {seed}")
        with scratch(bench.folder) as out:
            bundle = _student(bench, STAND_IN, seed, recipe, unlabeled=learnt.single_texts(), held_out=judge, out=out)
            quality = quality_of(load_bundle(bundle), judge)
        kept = {key: quality[key] for key in ("macro_f1", "macro_f1_interval", "num_texts")}
        row = {"kind": "stand_in", "recipe": recipe, "target": STAND_IN, "seed": seed}
        bench.keep(name, row | kept)


def unlabelled(bench: Bench, seed: int) -> None:
    """The recipe that was best on the stand-in, on the other three domains."""
    from distill.models.loading import load_bundle

    stand_in(bench, SEEDS[0])
    recipe = chosen_recipe(bench.rows())
    assert recipe is not None  # noqa: S101  (all were just tried)
    for target in DOMAINS:
        name = f"unlabelled-{target}-{seed}"
        if target == STAND_IN or bench.done(name, recipe=recipe):
            continue
        bench.reporter.say(f"{target} without labels, seed {seed}")
        texts = (*bench.splits[target].train.single_texts(), *bench.splits[target].validation.single_texts())
        with scratch(bench.folder) as out:
            bundle = _student(bench, target, seed, recipe, unlabeled=texts, held_out=bench.test(target), out=out)
            row = {"kind": "unlabelled", "source": "the other three", "target": target, "seed": seed}
            bench.keep(name, row | {"recipe": recipe} | measured(bench, load_bundle(bundle), target))


def together(parts: Sequence[Dataset]) -> Dataset:
    """Return the texts of several sets with the same labels as one."""
    return Dataset(
        tuple(text for part in parts for text in part.texts),
        np.concatenate([part.label_ids for part in parts]),
        parts[0].labels,
        " + ".join(part.source for part in parts),
    )


def _student(
    bench: Bench, target: str, seed: int, recipe: str, *, unlabeled: Sequence[str], held_out: Dataset, out: Path
) -> Bundle:
    from distill.training.distillation import fit_student

    others = [domain for domain in DOMAINS if domain != target]
    chosen = UNLABELLED[recipe]
    asked, most = (others, LABELLED_A_SOURCE) if chosen.every_source else (others[:1], LABELLED_OF_ONE)
    return fit_student(
        [source_of(bench, domain, seed) for domain in others],
        train=together([limited(bench.splits[domain].train, most, seed=seed) for domain in asked]),
        validation=together([bench.splits[domain].validation for domain in asked]),
        test=held_out,
        unlabeled=unlabeled,
        out=out / "bundle",
        settings=chosen.settings.model_copy(update={"seed": seed}),
        reporter=bench.reporter,
    )
