"""The part `language` of the `transfer` scenario: Chinese reviews, where every model at hand is English.

A new vocabulary over the frozen layers of the teacher of movies, whose layers then learn too. Beside it that teacher as it is,
the same vocabulary over layers drawn anew, and the simplest classifiers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.transfer.bench import Bench, quality_of, quality_of_logits, scratch, source_of
from benchmarks.transfer.choice import candidate_of
from benchmarks.transfer.figures import FROM_SCRATCH
from benchmarks.transfer.recipes import (
    ADAPTED_FIRST,
    ADAPTED_TEXTS,
    LANGUAGE_FROM_SCRATCH,
    LANGUAGE_TEXTS,
    OVER_FROZEN_LAYERS,
    WITH_ALL_LAYERS,
)
from distill.bundle import Bundle
from distill.data import Dataset, limited, load_splits
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.labels import Logits
from distill.settings import BUILTIN_MINILM, DataSettings
from distill.teacher_settings import TeacherSettings

if TYPE_CHECKING:
    from distill.training.origin import Origin

SOURCE: Final = "movies"
VALIDATION_TEXTS: Final = 500


@dataclass(frozen=True)
class MeasuredSplits:
    """Texts to learn from, to choose on and to measure with, and more whose labels are not learnt."""

    train: Dataset
    more: Dataset
    validation: Dataset
    test: Dataset


def language(bench: Bench, seed: int) -> None:
    """Make the cells of every origin."""
    from distill.training.origin import Origin

    splits = language_texts()
    for origin in ("majority", "zero_shot", "tfidf"):
        if not bench.done(_cell(origin, seed)):
            _keep(bench, origin, seed, splits, quality_of_logits(_unlearnt(bench, origin, seed, splits), splits.test))
    frozen, whole = (f"{SOURCE}_{way}" for way in ("frozen", "whole"))
    if not (bench.done(_cell(frozen, seed)) and bench.done(_cell(whole, seed))):
        with scratch(bench.folder) as out:
            init = source_of(bench, SOURCE, seed)
            init = _learnt(bench, frozen, seed, splits, OVER_FROZEN_LAYERS, out=out / "frozen", beginning=Origin(init=init))
            _learnt(bench, whole, seed, splits, WITH_ALL_LAYERS, out=out / "whole", beginning=Origin(init=init))
    random, movies = str(candidate_of(bench, "random", seed)), source_of(bench, SOURCE, seed)
    unlabelled = limited(splits.more, ADAPTED_TEXTS, seed=seed).texts
    begun: dict[str, tuple[TeacherSettings, str | Origin]] = {
        FROM_SCRATCH: (LANGUAGE_FROM_SCRATCH, random),
        f"{SOURCE}_adapted": (ADAPTED_FIRST, Origin(init=movies, adapt_texts=unlabelled)),
        "random_frozen": (OVER_FROZEN_LAYERS, random),
    }
    for origin, (settings, beginning) in begun.items():
        if not bench.done(_cell(origin, seed)):
            with scratch(bench.folder) as out:
                _learnt(bench, origin, seed, splits, settings, out=out / "bundle", beginning=beginning)


def language_texts() -> MeasuredSplits:
    """Return a sample of the reviews to learn from and to choose the epoch on, the same with every seed, and all test texts."""
    splits = load_splits(DataSettings(train=("builtin:chinese",), test="builtin:chinese"))
    assert splits.test is not None  # noqa: S101  (a built-in set has them)
    return MeasuredSplits(
        train=limited(splits.train, LANGUAGE_TEXTS, seed=0),
        more=splits.train,
        validation=limited(splits.validation, VALIDATION_TEXTS, seed=0),
        test=splits.test,
    )


def _unlearnt(bench: Bench, origin: str, seed: int, splits: MeasuredSplits) -> Logits:
    """Answers to the test texts of what needs no training of a model."""
    if origin == "majority":
        return MajorityClassifier(splits.train).predict_logits(splits.test.texts)
    if origin == "tfidf":
        return TfidfClassifier(splits.train, unit="characters", seed=seed).predict_logits(splits.test.texts)
    from distill.models.loading import load_bundle
    from distill.teachers.answers import teacher_logits

    return teacher_logits(load_bundle(source_of(bench, SOURCE, seed)), splits.test.texts).logits


def _learnt(
    bench: Bench,
    origin: str,
    seed: int,
    splits: MeasuredSplits,
    settings: TeacherSettings,
    *,
    out: Path,
    beginning: str | Origin,
) -> Bundle:
    """Carry a model over to the reviews, keep its row, and return it.

    Args:
        bench: Where.
        origin: What it is called.
        seed: Of the run.
        splits: The reviews.
        settings: How.
        out: The bundle's folder.
        beginning: What `fit_teacher` starts from: a model, or an origin.
    """
    from distill.models.loading import load_bundle
    from distill.training.fine_tuning import fit_teacher

    bench.reporter.say(f"chinese from {origin.replace('_', ' ')}, seed {seed}")
    model, begun = (beginning, None) if isinstance(beginning, str) else (BUILTIN_MINILM, beginning)
    bundle = fit_teacher(
        model,
        train=splits.train,
        validation=splits.validation,
        out=out,
        settings=settings.model_copy(update={"seed": seed}),
        origin=begun,
        reporter=bench.reporter,
    )
    seconds = sum(epoch["seconds"] for epoch in bundle.manifest.history)
    _keep(bench, origin, seed, splits, {"training_s": seconds, **quality_of(load_bundle(bundle), splits.test)})
    return bundle


def _keep(bench: Bench, origin: str, seed: int, splits: MeasuredSplits, found: dict[str, Any]) -> None:
    row = {
        "kind": "language",
        "origin": origin,
        "seed": seed,
        "num_labels": len(splits.train),
        "labels": list(splits.test.labels),
    }
    bench.keep(_cell(origin, seed), row | found)


def _cell(origin: str, seed: int) -> str:
    return f"language-{origin}-{seed}"
