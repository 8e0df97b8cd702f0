"""The part `choice` of the `transfer` scenario: candidates ranked without fine-tuning, then really fine-tuned."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.transfer.bench import Bench, quality_of, scratch, source_of
from benchmarks.transfer.figures import CANDIDATES, DOMAINS, TASKS
from benchmarks.transfer.recipes import CHOICE, CHOICE_TEXTS
from distill.data import Dataset, limited
from distill.settings import BUILTIN_MINILM
from distill.teacher_settings import SelectSettings


def choice(bench: Bench, seed: int) -> None:
    """Rank four candidates on five tasks without fine-tuning, then fine-tune each and compare the ranks."""
    from distill.models.loading import load_bundle
    from distill.training.fine_tuning import fit_teacher
    from distill.transfer.select import select

    for task in TASKS:
        name = f"choice-{task}-{seed}"
        if bench.done(name):
            continue
        bench.reporter.say(f"choosing for {task}, seed {seed}")
        train, validation, test = _task(bench, task, seed)
        folders = {candidate: str(candidate_of(bench, candidate, seed, task=task)) for candidate in CANDIDATES}
        settings = SelectSettings(max_texts=len(train), seed=seed)
        promised = {one.candidate: one for one in select(list(folders.values()), train, settings).ranked}
        found = []
        for candidate, folder in folders.items():
            with scratch(bench.folder) as out:
                bundle = fit_teacher(
                    folder,
                    train=train,
                    validation=validation,
                    out=out / "bundle",
                    settings=CHOICE.model_copy(update={"seed": seed}),
                    reporter=bench.reporter,
                )
                quality = quality_of(load_bundle(bundle), test)
            kept = {name: quality[name] for name in ("macro_f1", "macro_f1_interval", "predicted")}
            found.append({**asdict(promised[folder]), "candidate": candidate, **kept})
        bench.keep(name, {"kind": "choice", "task": task, "seed": seed, "candidates": found, "num_texts": len(test)})


def _task(bench: Bench, task: str, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test texts of a task: a domain's sentiment, or which domain a text is of."""
    parts = (
        (bench.splits[task].train, bench.splits[task].validation, bench.test(task)) if task in DOMAINS else domains_task(bench)
    )
    counts = (CHOICE_TEXTS, CHOICE_TEXTS // 5, 2000)
    train, validation, test = (limited(part, count, seed=seed) for part, count in zip(parts, counts, strict=True))
    return train, validation, test


def domains_task(bench: Bench) -> tuple[Dataset, Dataset, Dataset]:
    """Return training, validation and test texts of all four domains, labelled with the domain they are of."""
    parts = []
    for role in ("train", "validation", "test"):
        sets = [bench.test(name) if role == "test" else getattr(bench.splits[name], role) for name in DOMAINS]
        ids = np.concatenate([np.full(len(one), number, dtype=np.int64) for number, one in enumerate(sets)])
        texts = tuple(text for one in sets for text in one.texts)
        parts.append(Dataset(texts, ids, DOMAINS, f"domains ({role})"))
    return parts[0], parts[1], parts[2]


def candidate_of(bench: Bench, candidate: str, seed: int, *, task: str = "") -> Path | str:
    """Return an encoder as a folder: the packaged one whole, its three lowest layers, drawn anew, or after another task."""
    from distill.models.loading import load_pretrained
    from distill.models.torch_classifier import write_model_files
    from distill.students.layers import keep_layers
    from distill.transfer.parameters import reinitialize

    if candidate == "minilm":
        return BUILTIN_MINILM
    if candidate == "after_a_task":
        return source_of(bench, "amazon" if task == "movies" else "movies", seed).path
    folder = bench.folder / f"{candidate}-{seed}"
    if folder.is_dir():
        return folder
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
