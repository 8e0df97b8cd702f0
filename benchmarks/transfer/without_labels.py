"""The parts of the `transfer` scenario without labels of the target, and those into another language.

`unlabelled`: the teachers of the other domains label its texts; what else decides the student is chosen on a domain that
stands in, so no label of a target is read. `language`: Chinese reviews, where every model at hand is English.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.transfer.bench import (
    Bench,
    Cell,
    Start,
    Texts,
    logits_of,
    quality_of,
    quality_of_logits,
    scratch,
    source_of,
    together,
    tuned,
    tuned_figures,
)
from benchmarks.transfer.figures import DOMAINS, LANGUAGE_ORIGINS, SEEDS, STAND_IN, UNLABELLED_RECIPES, chosen_recipe
from benchmarks.transfer.parts import start_from
from benchmarks.transfer.recipes import (
    ADAPTED_FIRST,
    ADAPTED_TEXTS,
    LABELLED_A_SOURCE,
    LABELLED_OF_ONE,
    LANGUAGE_FROM_SCRATCH,
    LANGUAGE_TEXTS,
    OVER_FROZEN_LAYERS,
    UNLABELLED,
    WITH_ALL_LAYERS,
)
from distill.data import Dataset, limited
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.labels import Logits

SOURCE = "movies"
VALIDATION_TEXTS = 500
STAND_IN_TEXTS = 2500
"""Texts of the stand-in that are learnt from without their labels: about as many as the targets have."""


def stand_in(bench: Bench, seed: int) -> Iterator[Cell]:
    """Each recipe on the stand-in, judged on training and validation texts of it that the student has not learnt from."""
    for recipe in UNLABELLED_RECIPES if seed == SEEDS[0] else ():
        row = {"kind": "stand_in", "recipe": recipe, "target": STAND_IN, "seed": seed}
        yield Cell(f"stand-in-{recipe}-{seed}", row, partial(_stand_in, bench, recipe, seed))


def _stand_in(bench: Bench, recipe: str, seed: int) -> dict[str, Any]:
    texts = bench.domains[STAND_IN]
    learnt = limited(texts.train, STAND_IN_TEXTS, seed=seed)
    known = set(learnt.texts)
    others = texts.train.take([row for row, text in enumerate(texts.train.texts) if text not in known])
    judge = together([others, texts.validation])
    quality = _student(bench, STAND_IN, seed, recipe, unlabeled=learnt.single_texts(), held_out=judge)
    return {key: quality[key] for key in ("macro_f1", "macro_f1_interval", "num_texts")}


def unlabelled(bench: Bench, seed: int) -> Iterator[Cell]:
    """The recipe that was best on the stand-in, on the other three domains."""
    recipe = chosen_recipe(bench.pieces.all())
    chosen = {} if recipe is None else {"recipe": recipe}
    for target in (each for each in DOMAINS if each != STAND_IN):
        row = {"kind": "unlabelled", "source": "the other three", "target": target, "seed": seed, **chosen}
        yield Cell(f"unlabelled-{target}-{seed}", row, partial(_unlabelled, bench, target, seed))


def _unlabelled(bench: Bench, target: str, seed: int) -> dict[str, Any]:
    bench.make(stand_in(bench, SEEDS[0]))
    recipe, texts = chosen_recipe(bench.pieces.all()), bench.domains[target]
    assert recipe is not None  # noqa: S101  (all were just tried)
    asked = (*texts.train.single_texts(), *texts.validation.single_texts())
    return {"recipe": recipe, **_student(bench, target, seed, recipe, unlabeled=asked, held_out=texts.test)}


def _student(
    bench: Bench, target: str, seed: int, recipe: str, *, unlabeled: Sequence[str], held_out: Dataset
) -> dict[str, Any]:
    """Return the quality of a student that learns from the teachers of the other domains."""
    from distill.training.distillation import fit_student

    others = [domain for domain in DOMAINS if domain != target]
    chosen = UNLABELLED[recipe]
    asked, most = (others, LABELLED_A_SOURCE) if chosen.every_source else (others[:1], LABELLED_OF_ONE)
    with scratch(bench.folder) as out:
        student = fit_student(
            [source_of(bench, domain, seed) for domain in others],
            train=together([limited(bench.domains[domain].train, most, seed=seed) for domain in asked]),
            validation=together([bench.domains[domain].validation for domain in asked]),
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


def language(bench: Bench, seed: int) -> Iterator[Cell]:
    """Chinese by the simplest classifiers, by an English teacher as it is, over its frozen layers, and from scratch."""
    for origin in LANGUAGE_ORIGINS:
        row = {"kind": "language", "origin": origin, "seed": seed}
        yield Cell(f"language-{origin}-{seed}", row, partial(_language, bench, origin, seed))


def _language(bench: Bench, origin: str, seed: int) -> dict[str, Any]:
    texts = language_texts(bench)
    simple: dict[str, Callable[[], Logits]] = {
        "majority": lambda: MajorityClassifier(texts.train).predict_logits(texts.test.texts),
        "zero_shot": lambda: logits_of(source_of(bench, SOURCE, seed), texts.test),
        "tfidf": lambda: TfidfClassifier(texts.train, unit="characters", seed=seed).predict_logits(texts.test.texts),
    }
    if origin in simple:
        found = quality_of_logits(simple[origin](), texts.test)
    else:
        with scratch(bench.folder) as out:
            found = tuned_figures(bench, texts, _start_in_chinese(bench, texts, origin, seed, out))
    return {"num_labels": len(texts.train), "labels": list(texts.test.labels), **found}


def _start_in_chinese(bench: Bench, texts: Texts, origin: str, seed: int, out: Path) -> Start:
    from distill.training.origin import Origin

    begun, _, how = origin.partition("_")
    frozen, whole = (each.model_copy(update={"seed": seed}) for each in (OVER_FROZEN_LAYERS, WITH_ALL_LAYERS))
    if how == "frozen":
        return start_from(bench, begun, frozen)
    if how == "whole":
        return Start(whole, origin=Origin(init=tuned(bench, texts, start_from(bench, begun, frozen), out=out / "frozen")))
    if how == "adapted":
        more = limited(bench.builtin("chinese").train, ADAPTED_TEXTS, seed=seed).texts
        adapted = Origin(init=source_of(bench, begun, seed), adapt_texts=more)
        return Start(ADAPTED_FIRST.model_copy(update={"seed": seed}), origin=adapted)
    return start_from(bench, origin, LANGUAGE_FROM_SCRATCH.model_copy(update={"seed": seed}))
