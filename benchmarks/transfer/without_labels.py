"""How cells of the `transfer` scenario are made without labels of the target, and those into another language.

`unlabelled`: the teachers of the other domains label its texts; what else decides the student is chosen on a domain that
stands in, so no label of a target is read. `language`: Chinese reviews, where every model at hand is English.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.scenario import Row
from benchmarks.transfer.bench import Bench, Start, Texts, quality_of, scratch, source_of, tuned, tuned_figures
from benchmarks.transfer.figures import DOMAINS, STAND_IN, chosen_recipe
from benchmarks.transfer.parts import reached, start_from
from benchmarks.transfer.recipes import (
    ADAPTED_FIRST,
    ADAPTED_TEXTS,
    LANGUAGE_FROM_SCRATCH,
    LANGUAGE_TEXTS,
    OVER_FROZEN_LAYERS,
    UNLABELLED,
    WITH_ALL_LAYERS,
)
from distill.data import Dataset, limited
from distill.data.sources import united
from distill.errors import SettingsError

VALIDATION_TEXTS = 500
STAND_IN_TEXTS = 2500
"""Texts of the stand-in that are learnt from without their labels: about as many as the targets have."""


def stand_in(bench: Bench, row: Row) -> dict[str, Any]:
    """A recipe on the stand-in, judged on training and validation texts of it that the student has not learnt from."""
    texts = bench.domains[STAND_IN]
    learnt = limited(texts.train, STAND_IN_TEXTS, seed=row["seed"])
    known = set(learnt.texts)
    others = texts.train.take([place for place, text in enumerate(texts.train.texts) if text not in known])
    judge = united([others, texts.validation])
    quality = _student(bench, row, row["recipe"], unlabeled=learnt.single_texts(), held_out=judge)
    return {key: quality[key] for key in ("macro_f1", "macro_f1_interval", "num_texts")}


def unlabelled(bench: Bench, row: Row) -> dict[str, Any]:
    """The recipe that was best on the stand-in, on another domain.

    Raises:
        SettingsError: Not all were tried there.
    """
    recipe, texts = chosen_recipe(bench.pieces.all()), bench.domains[row["target"]]
    if recipe is None:
        raise SettingsError("the recipe is chosen by the part stand_in, whose cells are not there; name it in --parts too")
    asked = (*texts.train.single_texts(), *texts.validation.single_texts())
    return {"recipe": recipe, **_student(bench, row, recipe, unlabeled=asked, held_out=texts.test)}


def _student(bench: Bench, row: Row, recipe: str, *, unlabeled: Sequence[str], held_out: Dataset) -> dict[str, Any]:
    """Return the quality of a student of the row's target that learns from the teachers of the other domains."""
    from distill.training.distillation import fit_student

    seed, others = row["seed"], [domain for domain in DOMAINS if domain != row["target"]]
    chosen = UNLABELLED[recipe]
    asked = others[: chosen.sources]
    with scratch(bench.folder) as out:
        student = fit_student(
            [source_of(bench, domain, seed) for domain in others],
            train=united([limited(bench.domains[domain].train, chosen.texts_of_each, seed=seed) for domain in asked]),
            validation=united([bench.domains[domain].validation for domain in asked]),
            test=held_out,
            unlabeled=unlabeled,
            out=out / "bundle",
            settings=chosen.settings.model_copy(update={"seed": seed}),
            reporter=bench.reporter,
        )
        return quality_of(student, held_out)


def language_texts(bench: Bench) -> Texts:
    """Return a sample of the reviews to learn from and to choose the epoch on, the same with every seed, and all test texts."""
    texts = bench.builtin("chinese")
    train = limited(texts.train, LANGUAGE_TEXTS, seed=0)
    return Texts(train, limited(texts.validation, VALIDATION_TEXTS, seed=0), texts.test)


def language(bench: Bench, row: Row) -> dict[str, Any]:
    """Chinese by a simple classifier, by an English teacher as it is, over its frozen layers, or from scratch."""
    from distill.training.origin import Origin

    texts, origin, seed = language_texts(bench), row["origin"], row["seed"]
    frozen, adapted, every_layer, anew = (
        settings.model_copy(update={"seed": seed})
        for settings in (OVER_FROZEN_LAYERS, ADAPTED_FIRST, WITH_ALL_LAYERS, LANGUAGE_FROM_SCRATCH)
    )
    begun, _, how = origin.rpartition("_")
    if how == "frozen":
        found = reached(bench, texts, begun, frozen)
    elif how == "whole":
        with scratch(bench.folder) as out:
            first = tuned(bench, texts, start_from(bench, begun, frozen), out=out / "frozen")
            found = tuned_figures(bench, texts, Start(every_layer, origin=Origin(init=first)))
    elif how == "adapted":
        more = limited(bench.builtin("chinese").train, ADAPTED_TEXTS, seed=seed).texts
        found = tuned_figures(bench, texts, Start(adapted, origin=Origin(init=source_of(bench, begun, seed), adapt_texts=more)))
    else:
        known = "zero_shot_movies" if origin == "zero_shot" else origin
        found = reached(bench, texts, known, anew, unit="characters")
    return {"num_labels": len(texts.train), "labels": list(texts.test.labels), **found}
