"""The parts of the `transfer` scenario that begin with labels of the target, and those that rank candidates.

Each part yields the cells of a seed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.transfer.bench import (
    Bench,
    Cell,
    Start,
    Texts,
    logits_of,
    quality_of,
    quality_of_logits,
    scratch,
    seconds_of,
    source_of,
    together,
    tuned,
    tuned_figures,
)
from benchmarks.transfer.figures import (
    CANDIDATES,
    CROSS_TASKS,
    CURVE_PAIR,
    CURVE_SHOTS,
    DOMAINS,
    FROM_SCRATCH,
    LABELS_A_CLASS,
    SEEDS,
    TASKS,
)
from benchmarks.transfer.recipes import CHOICE, CHOICE_TEXTS, few_settings
from distill.data import Dataset, limited
from distill.data.dataset import few_shot
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.labels import Logits
from distill.settings import BUILTIN_MINILM
from distill.teacher_settings import SelectSettings, TeacherSettings

NEVER = -1e4
TEST_TEXTS = 2000


def teachers(bench: Bench, seed: int) -> Iterator[Cell]:
    """Each domain's teacher on the test texts of all four: its own score, and what it can do without a label elsewhere."""
    for source, target in product(DOMAINS, DOMAINS):
        row = {"kind": "whole", "source": source, "target": target, "seed": seed}
        yield Cell(f"whole-{source}-{target}-{seed}", row, partial(_whole, bench, source, target, seed))


def _whole(bench: Bench, source: str, target: str, seed: int) -> dict[str, Any]:
    bundle = source_of(bench, source, seed)
    return {"training_s": seconds_of(bundle), **quality_of(bundle, bench.domains[target].test)}


def few(bench: Bench, seed: int) -> Iterator[Cell]:
    """With 200 labels of the target: from each other domain's teacher, from the encoder alone, from nothing."""
    for source, target in product((*DOMAINS, FROM_SCRATCH), DOMAINS):
        kind = "scratch" if source == FROM_SCRATCH else "few"
        row = {"kind": kind, "source": source, "target": target, "seed": seed}
        if kind == "few" or seed == SEEDS[0]:
            begun, settings = "minilm" if source == target else source, few_settings(LABELS_A_CLASS, seed=seed)
            yield Cell(f"{kind}-{source}-{target}-{seed}", row, partial(_few, bench, begun, target, settings))


def _few(bench: Bench, origin: str, target: str, settings: TeacherSettings) -> dict[str, Any]:
    return tuned_figures(bench, bench.domains[target], start_from(bench, origin, settings))


def start_from(bench: Bench, origin: str, settings: TeacherSettings) -> Start:
    """Return a start from random weights, from the encoder alone (`minilm`), or from a domain's teacher."""
    from distill.training.origin import Origin

    if origin == FROM_SCRATCH:
        return Start(settings, str(candidate_of(bench, origin, settings.seed)))
    return Start(settings, origin=None if origin == "minilm" else Origin(init=source_of(bench, origin, settings.seed)))


def features(bench: Bench, seed: int) -> Iterator[Cell]:
    """Movies by a head on frozen features, with an empty cache and again with a full one, against whole fine-tuning."""
    row = {"kind": "features", "target": "movies", "seed": seed}
    yield Cell(f"features-{seed}", row, partial(_features, bench, seed))


def _features(bench: Bench, seed: int) -> dict[str, Any]:
    from distill.transfer.features import FOLDER

    texts, seconds = bench.domains["movies"], []
    with scratch(bench.folder) as out, patch.dict(os.environ, POTSTILL_CACHE=str(out / "cache")):
        for number in range(2):
            started = time.perf_counter()
            start = Start(TeacherSettings(transfer="features", seed=seed, mixed_precision="auto"))
            bundle = tuned(bench, texts, start, out=out / f"bundle-{number}")
            seconds.append(time.perf_counter() - started)
        # One epoch here and now stands for all: the teacher's own may be of a busier day.
        whole = TeacherSettings(seed=seed, mixed_precision="auto")
        once = tuned(bench, texts, Start(whole.model_copy(update={"epochs": 1})), out=out / "tuned")
        return {
            "cold_s": seconds[0],
            "warm_s": seconds[1],
            "cache_bytes": sum(path.stat().st_size for path in (out / "cache" / FOLDER).iterdir()),
            "layers": bundle.manifest.settings["teacher"]["feature_layer"],
            "fine_tuning_s": whole.epochs * seconds_of(once),
            "load_average_1m": os.getloadavg()[0],
            **quality_of(bundle, texts.test),
        }


def floors(bench: Bench, seed: int) -> Iterator[Cell]:
    """Each domain by TF-IDF and regression, on the 200 labels of the seed and on all, and by its commonest label."""
    for target in DOMAINS:
        yield _floor(bench, target, seed, shots=LABELS_A_CLASS)
        for name in ("tfidf", "majority") if seed == SEEDS[0] else ():  # the same with every seed
            row = {"kind": "floor", "source": name, "target": target, "seed": seed}
            yield Cell(f"floor-{name}-{target}-all", row, partial(_floor_figures, bench, name, target, None, seed))


def _floor(bench: Bench, target: str, seed: int, *, shots: int) -> Cell:
    row = {"kind": "floor", "source": "tfidf", "target": target, "seed": seed, "shots": shots}
    return Cell(f"floor-tfidf-{target}-{shots}-{seed}", row, partial(_floor_figures, bench, "tfidf", target, shots, seed))


def _floor_figures(bench: Bench, name: str, target: str, shots: int | None, seed: int) -> dict[str, Any]:
    texts = bench.domains[target]
    train = texts.train if shots is None else all_shots(texts.train, shots=shots, seed=seed)
    floor = TfidfClassifier(train) if name == "tfidf" else MajorityClassifier(train)
    return {"num_labels": len(train), **quality_of_logits(floor.predict_logits(texts.test.texts), texts.test)}


def curve(bench: Bench, seed: int) -> Iterator[Cell]:
    """One domain with more and more labels, from another's teacher and from the encoder alone, both ways, and by TF-IDF.

    With `LABELS_A_CLASS` fine-tuning is the part `few`.
    """
    source, target = CURVE_PAIR
    for shots in CURVE_SHOTS:
        yield _floor(bench, target, seed, shots=shots)
        ways = [TeacherSettings(transfer="features", shots=shots, seed=seed, mixed_precision="auto")]
        ways += [few_settings(shots, seed=seed)] if shots != LABELS_A_CLASS else []
        for origin, settings in product((source, target), ways):
            way, begun = settings.transfer, "minilm" if origin == target else origin
            row = {"kind": "curve", "way": way, "source": origin, "target": target, "shots": shots, "seed": seed}
            yield Cell(f"curve-{way}-{origin}-{target}-{shots}-{seed}", row, partial(_few, bench, begun, target, settings))


def all_shots(train: Dataset, *, shots: int, seed: int) -> Dataset:
    """Return the texts that a carried model is given, those to learn from and those to choose on."""
    return together(few_shot(train, shots=shots, seed=seed))


def tasks(bench: Bench, seed: int) -> Iterator[Cell]:
    """Other tasks with few labels: from a two-way teacher, the encoder alone, random weights, the simplest classifiers."""
    for task, origins in CROSS_TASKS.items():
        for origin in origins:
            row = {"kind": "task", "task": task, "origin": origin, "seed": seed}
            yield Cell(f"task-{task}-{origin}-{seed}", row, partial(_task, bench, task, origin, seed))


def _task(bench: Bench, task: str, origin: str, seed: int) -> dict[str, Any]:
    texts = task_texts(bench, task)
    if (logits := _untuned(bench, origin, seed, texts)) is not None:
        found = quality_of_logits(logits, texts.test)
    else:
        found = tuned_figures(bench, texts, start_from(bench, origin, few_settings(LABELS_A_CLASS, seed=seed)))
    return {"labels": list(texts.test.labels), **found}


def _untuned(bench: Bench, origin: str, seed: int, texts: Texts) -> Logits | None:
    """Answers of what needs no fine-tuning; None for the rest."""
    if origin == "majority":
        return MajorityClassifier(texts.train).predict_logits(texts.test.texts)
    if origin == "tfidf":
        return TfidfClassifier(all_shots(texts.train, shots=LABELS_A_CLASS, seed=seed)).predict_logits(texts.test.texts)
    if not origin.startswith("zero_shot_"):
        return None
    teacher = source_of(bench, origin.removeprefix("zero_shot_"), seed)
    return spread_out(logits_of(teacher, texts.test), teacher.labels, texts.test.labels)


def spread_out(logits: Logits, labels: tuple[str, ...], wanted: tuple[str, ...]) -> Logits:
    """Return logits for another list of labels, by name; a label that the classifier does not know it never gives.

    Args:
        logits: Shape (texts, labels).
        labels: Their names.
        wanted: Names of the columns returned.
    """
    out = np.full((len(logits), len(wanted)), NEVER, dtype=np.float32)
    out[:, [wanted.index(name) for name in labels]] = logits
    return out


def task_texts(bench: Bench, task: str) -> Texts:
    """Return the texts of another task, up to 2,000 of them to measure with."""
    if task != "domains":
        return bench.builtin(task)
    texts = domains_task(bench)
    return replace(texts, test=limited(texts.test, TEST_TEXTS, seed=0))


def domains_task(bench: Bench) -> Texts:
    """Return the texts of all four domains, labelled with the domain they are of."""
    parts = {}
    for role in ("train", "validation", "test"):
        sets = [getattr(bench.domains[name], role) for name in DOMAINS]
        ids = np.concatenate([np.full(len(one), number, dtype=np.int64) for number, one in enumerate(sets)])
        parts[role] = Dataset(tuple(text for one in sets for text in one.texts), ids, DOMAINS, f"domains ({role})")
    return Texts(**parts)


def choice(bench: Bench, seed: int) -> Iterator[Cell]:
    """Rank four candidates on five tasks without fine-tuning, then fine-tune each and compare the ranks."""
    for task in TASKS:
        row = {"kind": "choice", "task": task, "seed": seed}
        yield Cell(f"choice-{task}-{seed}", row, partial(_choice, bench, task, seed))


def _choice(bench: Bench, task: str, seed: int) -> dict[str, Any]:
    from distill.transfer.select import select

    whole = bench.domains[task] if task in DOMAINS else domains_task(bench)
    texts = Texts(
        limited(whole.train, CHOICE_TEXTS, seed=seed),
        limited(whole.validation, CHOICE_TEXTS // 5, seed=seed),
        limited(whole.test, TEST_TEXTS, seed=seed),
    )
    folders = {candidate: str(candidate_of(bench, candidate, seed, task=task)) for candidate in CANDIDATES}
    settings = SelectSettings(max_texts=len(texts.train), seed=seed)
    promised = {one.candidate: one for one in select(list(folders.values()), texts.train, settings).ranked}
    found = []
    for candidate, folder in folders.items():
        reached = tuned_figures(bench, texts, Start(CHOICE.model_copy(update={"seed": seed}), folder))
        kept = {name: reached[name] for name in ("macro_f1", "macro_f1_interval", "predicted")}
        found.append({**asdict(promised[folder]), "candidate": candidate, **kept})
    return {"candidates": found, "num_texts": len(texts.test)}


def candidate_of(bench: Bench, candidate: str, seed: int, *, task: str = "") -> Path | str:
    """Return an encoder as a folder: the packaged one whole, its three lowest layers, random weights, or after another task."""
    from distill.models.loading import load_pretrained
    from distill.models.torch_classifier import write_model_files
    from distill.students.layers import keep_layers
    from distill.transfer.parameters import reinitialize

    if candidate == "minilm":
        return BUILTIN_MINILM
    if candidate == "after_a_task":
        return source_of(bench, "amazon" if task == "movies" else "movies", seed).path
    folder = bench.folder / f"{candidate}-{seed}"
    if not folder.is_dir():
        with scratch(bench.folder) as out:
            classifier = load_pretrained(BUILTIN_MINILM, labels=("negative", "positive"), max_length=128, seed=seed)
            if candidate == "lowest_3_layers":
                classifier = keep_layers(classifier, range(3))
            else:
                reinitialize(classifier.model, lambda _: True, seed=seed)
            (out / "model").mkdir()
            write_model_files(classifier, out / "model")
            (out / "model").rename(folder)  # whole or not at all
    return folder
