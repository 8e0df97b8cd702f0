"""The parts `floors` and `curve` of the `transfer` scenario: what the simplest classifiers reach, what more labels bring."""

from __future__ import annotations

import numpy as np

from benchmarks.transfer.bench import Bench, measured, quality_of_logits, scratch, source_of
from benchmarks.transfer.figures import CURVE_PAIR, CURVE_SHOTS, DOMAINS, LABELS_A_CLASS, SEEDS
from benchmarks.transfer.recipes import few_settings
from distill.data import Dataset
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.teacher_settings import TeacherSettings


def floors(bench: Bench, seed: int) -> None:
    """Each domain by TF-IDF and regression, on the 200 labels of the seed and on all, and by its commonest label."""
    for target in DOMAINS:
        train = bench.splits[target].train
        _floor(bench, "tfidf", target, seed, shots=LABELS_A_CLASS)
        if seed != SEEDS[0]:  # these two are the same with every seed
            continue
        for name, made in (("tfidf", TfidfClassifier), ("majority", MajorityClassifier)):
            cell = f"floor-{name}-{target}-all"
            if not bench.done(cell):
                test = bench.test(target)
                row = {"kind": "floor", "source": name, "target": target, "seed": seed, "num_labels": len(train)}
                bench.keep(cell, row | quality_of_logits(made(train).predict_logits(test.texts), test))


def curve(bench: Bench, seed: int) -> None:
    """One domain with more and more labels, from another's teacher and from the encoder alone, both ways, and by TF-IDF.

    With `LABELS_A_CLASS` fine-tuning is the part `few`.
    """
    source, target = CURVE_PAIR
    for shots in CURVE_SHOTS:
        _floor(bench, "tfidf", target, seed, shots=shots)
        for origin in (source, target):
            features = TeacherSettings(transfer="features", shots=shots, seed=seed, mixed_precision="auto")
            _point(bench, origin, target, seed, features)
            if shots != LABELS_A_CLASS:
                _point(bench, origin, target, seed, few_settings(shots, seed=seed))


def all_shots(train: Dataset, *, shots: int, seed: int) -> Dataset:
    """Return the texts that a carried model is given, those to learn from and those to choose on."""
    from distill.data.dataset import few_shot

    learnt, chosen = few_shot(train, shots=shots, seed=seed)
    return Dataset(
        (*learnt.texts, *chosen.texts), np.concatenate([learnt.label_ids, chosen.label_ids]), train.labels, train.source
    )


def _floor(bench: Bench, name: str, target: str, seed: int, *, shots: int) -> None:
    cell = f"floor-{name}-{target}-{shots}-{seed}"
    if bench.done(cell):
        return
    test, train = bench.test(target), all_shots(bench.splits[target].train, shots=shots, seed=seed)
    row = {"kind": "floor", "source": name, "target": target, "seed": seed, "shots": shots, "num_labels": len(train)}
    bench.keep(cell, row | quality_of_logits(TfidfClassifier(train).predict_logits(test.texts), test))


def _point(bench: Bench, origin: str, target: str, seed: int, settings: TeacherSettings) -> None:
    from distill.models.loading import load_bundle
    from distill.training.fine_tuning import fit_teacher
    from distill.training.origin import Origin

    way, shots = settings.transfer, settings.shots
    cell = f"curve-{way}-{origin}-{target}-{shots}-{seed}"
    if bench.done(cell):
        return
    bench.reporter.say(f"{target} from {origin} as {way}, {shots} labels a class, seed {seed}")
    splits = bench.splits[target]
    with scratch(bench.folder) as out:
        bundle = fit_teacher(
            train=splits.train,
            validation=splits.validation,
            out=out / "bundle",
            settings=settings,
            origin=Origin(init=None if origin == target else source_of(bench, origin, seed)),
            reporter=bench.reporter,
        )
        row = {"kind": "curve", "way": way, "source": origin, "target": target, "shots": shots, "seed": seed}
        bench.keep(cell, row | measured(bench, load_bundle(bundle), target))
