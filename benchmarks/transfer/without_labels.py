"""The parts of the `transfer` scenario without labels of the target, and those into another language.

`unlabelled`: the teachers of the other domains label its texts; what else decides the student is chosen on a domain that
stands in, so no label of a target is read. `language`: Chinese reviews, where every model at hand is English.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.transfer.bench import (
    Bench,
    Start,
    Texts,
    classifier_of,
    logits_of,
    quality_of,
    quality_of_logits,
    scratch,
    seconds_of,
    source_of,
    tuned,
    tuned_cell,
)
from benchmarks.transfer.figures import DOMAINS, FROM_SCRATCH, SEEDS, STAND_IN, UNLABELLED_RECIPES, chosen_recipe
from benchmarks.transfer.parts import candidate_of
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
from distill.bundle import Bundle
from distill.data import Dataset, limited
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.labels import Logits

SOURCE = "movies"
VALIDATION_TEXTS = 500
STAND_IN_TEXTS = 2500
"""Texts of the stand-in that are learnt from without their labels: about as many as the targets have."""


def stand_in(bench: Bench, seed: int) -> None:
    """Each recipe on the stand-in, judged on training and validation texts of it that the student has not learnt from."""
    if seed != SEEDS[0]:
        return
    texts = bench.domains[STAND_IN]
    learnt = limited(texts.train, STAND_IN_TEXTS, seed=seed)
    known = set(learnt.texts)
    others = texts.train.take([row for row, text in enumerate(texts.train.texts) if text not in known])
    judge = together([others, texts.validation])
    for recipe in UNLABELLED_RECIPES:
        name = f"stand-in-{recipe}-{seed}"
        if bench.done(name):
            continue
        bench.reporter.say(name)
        with scratch(bench.folder) as out:
            bundle = _student(bench, STAND_IN, seed, recipe, unlabeled=learnt.single_texts(), held_out=judge, out=out)
            quality = quality_of(bundle, judge)
        kept = {key: quality[key] for key in ("macro_f1", "macro_f1_interval", "num_texts")}
        bench.keep(name, {"kind": "stand_in", "recipe": recipe, "target": STAND_IN, "seed": seed} | kept)


def unlabelled(bench: Bench, seed: int) -> None:
    """The recipe that was best on the stand-in, on the other three domains."""
    stand_in(bench, SEEDS[0])
    recipe = chosen_recipe(bench.rows())
    assert recipe is not None  # noqa: S101  (all were just tried)
    for target in DOMAINS:
        name, texts = f"unlabelled-{target}-{seed}", bench.domains[target]
        if target == STAND_IN or bench.done(name, recipe=recipe):
            continue
        bench.reporter.say(name)
        asked = (*texts.train.single_texts(), *texts.validation.single_texts())
        with scratch(bench.folder) as out:
            bundle = _student(bench, target, seed, recipe, unlabeled=asked, held_out=texts.test, out=out)
            row = {"kind": "unlabelled", "source": "the other three", "target": target, "seed": seed, "recipe": recipe}
            bench.keep(name, row | quality_of(bundle, texts.test))


def together(parts: Sequence[Dataset]) -> Dataset:
    """Return the texts of several sets with the same labels as one."""
    texts = tuple(text for part in parts for text in part.texts)
    ids = np.concatenate([part.label_ids for part in parts])
    return Dataset(texts, ids, parts[0].labels, " + ".join(part.source for part in parts))


def _student(
    bench: Bench, target: str, seed: int, recipe: str, *, unlabeled: Sequence[str], held_out: Dataset, out: Path
) -> Bundle:
    from distill.training.distillation import fit_student

    others = [domain for domain in DOMAINS if domain != target]
    chosen = UNLABELLED[recipe]
    asked, most = (others, LABELLED_A_SOURCE) if chosen.every_source else (others[:1], LABELLED_OF_ONE)
    return fit_student(
        [source_of(bench, domain, seed) for domain in others],
        train=together([limited(bench.domains[domain].train, most, seed=seed) for domain in asked]),
        validation=together([bench.domains[domain].validation for domain in asked]),
        test=held_out,
        unlabeled=unlabeled,
        out=out / "bundle",
        settings=chosen.settings.model_copy(update={"seed": seed}),
        reporter=bench.reporter,
    )


def language_texts(bench: Bench) -> Texts:
    """Return a sample of the reviews to learn from and to choose the epoch on, the same with every seed, and all test texts."""
    texts = bench.builtin("chinese")
    train = limited(texts.train, LANGUAGE_TEXTS, seed=0)
    return Texts(train, limited(texts.validation, VALIDATION_TEXTS, seed=0), texts.test)


def language(bench: Bench, seed: int) -> None:
    """Chinese by the simplest classifiers, by an English teacher as it is, over its frozen layers, and from scratch."""
    from distill.training.origin import Origin

    texts = language_texts(bench)

    def row(origin: str) -> dict[str, object]:
        labels = {"num_labels": len(texts.train), "labels": list(texts.test.labels)}
        return {"kind": "language", "origin": origin, "seed": seed, **labels}

    def cell(origin: str) -> str:
        return f"language-{origin}-{seed}"

    movies = source_of(bench, SOURCE, seed)
    simple: dict[str, Callable[[], Logits]] = {
        "majority": lambda: MajorityClassifier(texts.train).predict_logits(texts.test.texts),
        "zero_shot": lambda: logits_of(classifier_of(movies), texts.test),
        "tfidf": lambda: TfidfClassifier(texts.train, unit="characters", seed=seed).predict_logits(texts.test.texts),
    }
    for origin, answer in simple.items():
        if not bench.done(cell(origin)):
            bench.keep(cell(origin), row(origin) | quality_of_logits(answer(), texts.test))
    frozen, whole = f"{SOURCE}_frozen", f"{SOURCE}_whole"
    if not (bench.done(cell(frozen)) and bench.done(cell(whole))):
        with scratch(bench.folder) as out:
            begun = movies
            for origin, settings in ((frozen, OVER_FROZEN_LAYERS), (whole, WITH_ALL_LAYERS)):
                start = Start(settings.model_copy(update={"seed": seed}), origin=Origin(init=begun))
                begun = tuned(bench, texts, start, out=out / origin)
                kept = row(origin) | {"training_s": seconds_of(begun)} | quality_of(begun, texts.test)
                bench.keep(cell(origin), kept)
    random = str(candidate_of(bench, "random", seed))
    more = limited(bench.builtin("chinese").train, ADAPTED_TEXTS, seed=seed).texts
    starts = {
        FROM_SCRATCH: Start(LANGUAGE_FROM_SCRATCH, random),
        f"{SOURCE}_adapted": Start(ADAPTED_FIRST, origin=Origin(init=movies, adapt_texts=more)),
        "random_frozen": Start(OVER_FROZEN_LAYERS, random),
    }
    for origin, start in starts.items():
        seeded = Start(start.settings.model_copy(update={"seed": seed}), start.model, start.origin)
        tuned_cell(bench, cell(origin), row(origin), texts, seeded)
