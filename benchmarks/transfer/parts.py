"""How cells of the `transfer` scenario are made that begin with labels of the target, and those that rank candidates.

Each function returns what a row says besides what its cell is.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.harness.scenario import Row
from benchmarks.transfer.bench import (
    Bench,
    Start,
    Texts,
    logits_of,
    quality_of,
    quality_of_logits,
    scratch,
    source_of,
    tuned,
    tuned_figures,
)
from benchmarks.transfer.figures import (
    CANDIDATES,
    DOMAINS,
    FROM_SCRATCH,
    LABELS_A_CLASS,
)
from benchmarks.transfer.recipes import CHOICE, CHOICE_TEXTS, few_settings
from distill.data import Dataset, limited
from distill.data.dataset import few_shot
from distill.data.sources import united
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier, Unit
from distill.labels import Logits
from distill.settings import BUILTIN_MINILM
from distill.teacher_settings import SelectSettings, TeacherSettings

NEVER = -1e4
TEST_TEXTS = 2000


def whole(bench: Bench, row: Row) -> dict[str, Any]:
    """A domain's teacher on the test texts of any: its own score, and what it can do without a label elsewhere."""
    bundle = source_of(bench, row["source"], row["seed"])
    return {"training_s": bundle.manifest.training_s, **quality_of(bundle, bench.domains[row["target"]].test)}


def few(bench: Bench, row: Row) -> dict[str, Any]:
    """With few labels of the target, fine-tuned or as features: from a domain's teacher, the encoder alone, or nothing."""
    origin = "minilm" if row["source"] == row["target"] else row["source"]
    shots, seed = row.get("shots", LABELS_A_CLASS), row["seed"]
    as_features = TeacherSettings(transfer="features", shots=shots, seed=seed)
    settings = as_features if row.get("way") == "features" else few_settings(shots, seed=seed)
    return reached(bench, bench.domains[row["target"]], origin, settings)


def floor(bench: Bench, row: Row) -> dict[str, Any]:
    """A domain by TF-IDF and regression, on the few labels of the seed or on all, or by its commonest label."""
    texts, settings = bench.domains[row["target"]], TeacherSettings(shots=row.get("shots"), seed=row["seed"])
    return {"num_labels": len(labelled(texts, settings)), **reached(bench, texts, row["source"], settings)}


def reached(bench: Bench, texts: Texts, origin: str, settings: TeacherSettings, *, unit: Unit = "words") -> dict[str, Any]:
    """Return the quality of a simple classifier, of a domain's teacher as it is, or of what is fine-tuned from an origin.

    Args:
        bench: Where.
        texts: Of the task.
        origin: `majority`, `tfidf`, `zero_shot_` and a domain, or as for `start_from`.
        settings: Of the fine-tuning; a simple classifier has their seed and number of labels.
        unit: What TF-IDF counts.
    """
    if origin == "majority":
        logits = MajorityClassifier(texts.train).predict_logits(texts.test.texts)
    elif origin == "tfidf":
        floor = TfidfClassifier(labelled(texts, settings), unit=unit, seed=settings.seed)
        logits = floor.predict_logits(texts.test.texts)
    elif origin.startswith("zero_shot_"):
        teacher = source_of(bench, origin.removeprefix("zero_shot_"), settings.seed)
        logits = spread_out(logits_of(teacher, texts.test), teacher.labels, texts.test.labels)
    else:
        return tuned_figures(bench, texts, start_from(bench, origin, settings))
    return quality_of_logits(logits, texts.test)


def labelled(texts: Texts, settings: TeacherSettings) -> Dataset:
    """Return the texts that a fine-tuned model is given, those to learn from and those to choose on; all without `shots`."""
    if settings.shots is None:
        return texts.train
    return united(few_shot(texts.train, shots=settings.shots, seed=settings.seed))


def start_from(bench: Bench, origin: str, settings: TeacherSettings) -> Start:
    """Return a start from random weights, from the encoder alone (`minilm`), or from a domain's teacher."""
    from distill.training.origin import Origin

    if origin == FROM_SCRATCH:
        return Start(settings, str(candidate_of(bench, origin, settings.seed)))
    return Start(settings, origin=None if origin == "minilm" else Origin(init=source_of(bench, origin, settings.seed)))


def features(bench: Bench, row: Row) -> dict[str, Any]:
    """Movies by a head on frozen features, with an empty cache and again with a full one, against whole fine-tuning."""
    from distill.transfer.features import FOLDER

    texts, seed, seconds = bench.domains["movies"], row["seed"], []
    with scratch(bench.folder) as out, patch.dict(os.environ, POTSTILL_CACHE=str(out / "cache")):
        for number in range(2):
            started = time.perf_counter()
            start = Start(TeacherSettings(transfer="features", seed=seed))
            bundle = tuned(bench, texts, start, out=out / f"bundle-{number}")
            seconds.append(time.perf_counter() - started)
        # One epoch here and now stands for all: the teacher's own may be of a busier day.
        whole = TeacherSettings(seed=seed)
        once = tuned(bench, texts, Start(whole.model_copy(update={"epochs": 1})), out=out / "tuned")
        return {
            "cold_s": seconds[0],
            "warm_s": seconds[1],
            "cache_bytes": sum(path.stat().st_size for path in (out / "cache" / FOLDER).iterdir()),
            "layers": bundle.manifest.settings["teacher"]["feature_layer"],
            "fine_tuning_s": whole.epochs * once.manifest.training_s,
            "load_average_1m": os.getloadavg()[0],
            **quality_of(bundle, texts.test),
        }


def task(bench: Bench, row: Row) -> dict[str, Any]:
    """Another task with few labels: from a two-way teacher, the encoder alone, random weights, or a simple classifier."""
    texts = task_texts(bench, row["task"])
    found = reached(bench, texts, row["origin"], few_settings(LABELS_A_CLASS, seed=row["seed"]))
    return {"labels": list(texts.test.labels), **found}


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

    def named(role: str) -> Dataset:
        parts: list[Dataset] = [getattr(texts, role) for texts in bench.domains.values()]
        return united(
            [replace(part, label_ids=np.full_like(part.label_ids, place), labels=DOMAINS) for place, part in enumerate(parts)]
        )

    return Texts(named("train"), named("validation"), named("test"))


def choice(bench: Bench, row: Row) -> dict[str, Any]:
    """Rank four candidates for a task without fine-tuning, then fine-tune each, to compare the ranks."""
    from distill.transfer.select import select

    seed, task = row["seed"], row["task"]
    every = bench.domains[task] if task in DOMAINS else domains_task(bench)
    texts = Texts(
        limited(every.train, CHOICE_TEXTS, seed=seed),
        limited(every.validation, CHOICE_TEXTS // 5, seed=seed),
        limited(every.test, TEST_TEXTS, seed=seed),
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
            write_model_files(classifier, out / "model")
            (out / "model").rename(folder)  # whole or not at all
    return folder
