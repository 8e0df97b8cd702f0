"""The parts of the `transfer` scenario that begin with labels of the target, and those that rank candidates.

Each part makes the cells of a seed. A finished cell is not made again.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.transfer.bench import (
    Bench,
    Start,
    Texts,
    classifier_of,
    logits_of,
    own_cache,
    quality_of,
    quality_of_logits,
    scratch,
    seconds_of,
    source_of,
    tuned,
    tuned_cell,
)
from benchmarks.transfer.figures import (
    CANDIDATES,
    CROSS_TASKS,
    CURVE_PAIR,
    CURVE_SHOTS,
    DOMAINS,
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


def teachers(bench: Bench, seed: int) -> None:
    """Each domain's teacher on the test texts of all four: its own score, and what it can do without a label elsewhere."""
    for domain in DOMAINS:
        for target in DOMAINS:
            name = f"whole-{domain}-{target}-{seed}"
            if not bench.done(name):
                bundle = source_of(bench, domain, seed)
                row = {"kind": "whole", "source": domain, "target": target, "seed": seed, "training_s": seconds_of(bundle)}
                bench.keep(name, row | quality_of(bundle, bench.domains[target].test))


def few(bench: Bench, seed: int) -> None:
    """With 200 labels of the target: from each other domain's teacher, from the encoder alone, from nothing."""
    settings = few_settings(LABELS_A_CLASS, seed=seed)
    for target in DOMAINS:
        starts = {source: start_from(bench, source, target, settings) for source in DOMAINS}
        for source, start in starts.items():
            row = {"kind": "few", "source": source, "target": target, "seed": seed}
            tuned_cell(bench, f"few-{source}-{target}-{seed}", row, bench.domains[target], start)
        if seed == SEEDS[0]:
            row = {"kind": "scratch", "source": "random", "target": target, "seed": seed}
            start = Start(settings, str(candidate_of(bench, "random", seed)))
            tuned_cell(bench, f"scratch-random-{target}-{seed}", row, bench.domains[target], start)


def start_from(bench: Bench, source: str, target: str, settings: TeacherSettings) -> Start:
    """Return a start from the source's teacher; where source and target are one, from the encoder alone."""
    from distill.training.origin import Origin

    return Start(settings, origin=None if source == target else Origin(init=source_of(bench, source, settings.seed)))


def features(bench: Bench, seed: int) -> None:
    """Movies by a head on frozen features, with an empty cache and again with a full one, against whole fine-tuning."""
    from distill.transfer.features import FOLDER

    name, texts = f"features-{seed}", bench.domains["movies"]
    if bench.done(name):
        return
    seconds = []
    with scratch(bench.folder) as out, own_cache(out / "cache"):
        for number in range(2):
            started = time.perf_counter()
            start = Start(TeacherSettings(transfer="features", seed=seed, mixed_precision="auto"))
            bundle = tuned(bench, texts, start, out=out / f"bundle-{number}")
            seconds.append(time.perf_counter() - started)
        # One epoch here and now stands for all: the teacher's own may be of a busier day.
        whole = TeacherSettings(seed=seed, mixed_precision="auto")
        once = tuned(bench, texts, Start(whole.model_copy(update={"epochs": 1})), out=out / "tuned")
        row = {
            "kind": "features",
            "target": "movies",
            "seed": seed,
            "cold_s": seconds[0],
            "warm_s": seconds[1],
            "cache_bytes": sum(path.stat().st_size for path in (out / "cache" / FOLDER).iterdir()),
            "layers": bundle.manifest.settings["teacher"]["feature_layer"],
            "fine_tuning_s": whole.epochs * seconds_of(once),
            "load_average_1m": os.getloadavg()[0],
        }
        bench.keep(name, row | quality_of(bundle, texts.test))


def floors(bench: Bench, seed: int) -> None:
    """Each domain by TF-IDF and regression, on the 200 labels of the seed and on all, and by its commonest label."""
    for target in DOMAINS:
        _floor(bench, target, seed, shots=LABELS_A_CLASS)
        texts = bench.domains[target]
        for name, made in (("tfidf", TfidfClassifier), ("majority", MajorityClassifier)):
            cell = f"floor-{name}-{target}-all"
            if not bench.done(cell):  # the same with every seed
                row = {"kind": "floor", "source": name, "target": target, "seed": seed, "num_labels": len(texts.train)}
                logits = made(texts.train).predict_logits(texts.test.texts)
                bench.keep(cell, row | quality_of_logits(logits, texts.test))


def curve(bench: Bench, seed: int) -> None:
    """One domain with more and more labels, from another's teacher and from the encoder alone, both ways, and by TF-IDF.

    With `LABELS_A_CLASS` fine-tuning is the part `few`.
    """
    source, target = CURVE_PAIR
    for shots in CURVE_SHOTS:
        _floor(bench, target, seed, shots=shots)
        ways = [TeacherSettings(transfer="features", shots=shots, seed=seed, mixed_precision="auto")]
        ways += [few_settings(shots, seed=seed)] if shots != LABELS_A_CLASS else []
        for origin in (source, target):
            for settings in ways:
                row = {"kind": "curve", "way": settings.transfer, "source": origin, "target": target, "shots": shots}
                cell = f"curve-{settings.transfer}-{origin}-{target}-{shots}-{seed}"
                start = start_from(bench, origin, target, settings)
                tuned_cell(bench, cell, row | {"seed": seed}, bench.domains[target], start)


def all_shots(train: Dataset, *, shots: int, seed: int) -> Dataset:
    """Return the texts that a carried model is given, those to learn from and those to choose on."""
    learnt, chosen = few_shot(train, shots=shots, seed=seed)
    ids = np.concatenate([learnt.label_ids, chosen.label_ids])
    return Dataset((*learnt.texts, *chosen.texts), ids, train.labels, train.source)


def _floor(bench: Bench, target: str, seed: int, *, shots: int) -> None:
    cell, texts = f"floor-tfidf-{target}-{shots}-{seed}", bench.domains[target]
    if not bench.done(cell):
        train = all_shots(texts.train, shots=shots, seed=seed)
        row = {"kind": "floor", "source": "tfidf", "target": target, "seed": seed, "shots": shots, "num_labels": len(train)}
        bench.keep(cell, row | quality_of_logits(TfidfClassifier(train).predict_logits(texts.test.texts), texts.test))


def tasks(bench: Bench, seed: int) -> None:
    """Other tasks with few labels: from a two-way teacher, the encoder alone, random weights, the simplest classifiers."""
    settings = few_settings(LABELS_A_CLASS, seed=seed)
    for task, origins in CROSS_TASKS.items():
        texts = task_texts(bench, task)
        for origin in origins:
            cell = f"task-{task}-{origin}-{seed}"
            row = {"kind": "task", "task": task, "origin": origin, "seed": seed, "labels": list(texts.test.labels)}
            if bench.done(cell):
                continue
            if (logits := _untuned(bench, origin, seed, texts)) is not None:
                bench.keep(cell, row | quality_of_logits(logits, texts.test))
            elif origin == "random":
                tuned_cell(bench, cell, row, texts, Start(settings, str(candidate_of(bench, origin, seed))))
            else:
                same = "minilm" if origin == "minilm" else ""
                tuned_cell(bench, cell, row, texts, start_from(bench, origin, same, settings))


def _untuned(bench: Bench, origin: str, seed: int, texts: Texts) -> Logits | None:
    """Answers of what needs no fine-tuning; None for the rest."""
    if origin == "majority":
        return MajorityClassifier(texts.train).predict_logits(texts.test.texts)
    if origin == "tfidf":
        return TfidfClassifier(all_shots(texts.train, shots=LABELS_A_CLASS, seed=seed)).predict_logits(texts.test.texts)
    if not origin.startswith("zero_shot_"):
        return None
    teacher = classifier_of(source_of(bench, origin.removeprefix("zero_shot_"), seed))
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


def choice(bench: Bench, seed: int) -> None:
    """Rank four candidates on five tasks without fine-tuning, then fine-tune each and compare the ranks."""
    from distill.transfer.select import select

    for task in TASKS:
        name = f"choice-{task}-{seed}"
        if bench.done(name):
            continue
        bench.reporter.say(f"choosing for {task}, seed {seed}")
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
            with scratch(bench.folder) as out:
                bundle = tuned(bench, texts, Start(CHOICE.model_copy(update={"seed": seed}), folder), out=out / "bundle")
                quality = quality_of(bundle, texts.test)
            kept = {name: quality[name] for name in ("macro_f1", "macro_f1_interval", "predicted")}
            found.append({**asdict(promised[folder]), "candidate": candidate, **kept})
        bench.keep(name, {"kind": "choice", "task": task, "seed": seed, "candidates": found, "num_texts": len(texts.test)})


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
