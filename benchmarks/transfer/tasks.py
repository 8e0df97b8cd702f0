"""The part `tasks` of the `transfer` scenario: from sentiment with two labels to other tasks, with few labels of those.

Three-way sentiment and which domain a text is of; from a two-way teacher, from the encoder alone, from weights drawn anew, by
the two-way teacher as it is where its labels mean something there, and by the simplest classifiers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.transfer.bench import Bench, quality_of, quality_of_logits, scratch, source_of
from benchmarks.transfer.choice import candidate_of, domains_task
from benchmarks.transfer.curve import all_shots
from benchmarks.transfer.figures import CROSS_TASKS, LABELS_A_CLASS
from benchmarks.transfer.recipes import few_settings
from distill.data import Dataset, limited, load_splits
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.labels import Logits
from distill.settings import BUILTIN_MINILM, DataSettings

NEVER = -1e4
TEST_TEXTS = 2000


def tasks(bench: Bench, seed: int) -> None:
    """Make the cells of every task and origin."""
    for task, origins in CROSS_TASKS.items():
        for origin in origins:
            cell = f"task-{task}-{origin}-{seed}"
            if bench.done(cell):
                continue
            bench.reporter.say(f"{task} from {origin.replace('_', ' ')}, seed {seed}")
            train, validation, test = task_texts(bench, task)
            row = {"kind": "task", "task": task, "origin": origin, "seed": seed, "labels": list(test.labels)}
            bench.keep(cell, row | _made(bench, origin, seed, train, validation, test))


def task_texts(bench: Bench, task: str) -> tuple[Dataset, Dataset, Dataset]:
    """Return training, validation and up to 2,000 test texts of a task."""
    if task == "domains":
        train, validation, test = domains_task(bench)
        return train, validation, limited(test, TEST_TEXTS, seed=0)
    splits = load_splits(DataSettings(train=(f"builtin:{task}",), test=f"builtin:{task}"))
    assert splits.test is not None  # noqa: S101  (a built-in set has them)
    return splits.train, splits.validation, splits.test


def spread(logits: Logits, labels: tuple[str, ...], wanted: tuple[str, ...]) -> Logits:
    """Return logits for another list of labels, by name; a label that the classifier does not know it never gives.

    Args:
        logits: Shape (texts, labels).
        labels: Their names.
        wanted: Names of the columns returned.
    """
    out = np.full((len(logits), len(wanted)), NEVER, dtype=np.float32)
    for column, name in enumerate(labels):
        out[:, wanted.index(name)] = logits[:, column]
    return out


def _made(bench: Bench, origin: str, seed: int, train: Dataset, validation: Dataset, test: Dataset) -> dict[str, Any]:
    from distill.models.loading import load_bundle
    from distill.teachers.answers import teacher_logits
    from distill.training.fine_tuning import fit_teacher
    from distill.training.origin import Origin

    if origin in ("tfidf", "majority"):
        few = all_shots(train, shots=LABELS_A_CLASS, seed=seed)
        floor = TfidfClassifier(few) if origin == "tfidf" else MajorityClassifier(train)
        return quality_of_logits(floor.predict_logits(test.texts), test)
    if origin.startswith("zero_shot_"):
        teacher = load_bundle(source_of(bench, origin.removeprefix("zero_shot_"), seed))
        return quality_of_logits(spread(teacher_logits(teacher, test.texts).logits, teacher.labels, test.labels), test)
    with scratch(bench.folder) as out:
        bundle = fit_teacher(
            str(candidate_of(bench, origin, seed)) if origin == "random" else BUILTIN_MINILM,
            train=train,
            validation=validation,
            out=out / "bundle",
            settings=few_settings(LABELS_A_CLASS, seed=seed),
            origin=Origin(init=None if origin in ("minilm", "random") else source_of(bench, origin, seed)),
            reporter=bench.reporter,
        )
        return quality_of(load_bundle(bundle), test)
