"""The `transfer` scenario: four domains, every pair of them, and what a source brings where labels are few or none.

Cell by cell: a finished cell is a row file in the work folder and is not made again. Carries over with `fit_teacher` and
`fit_student`, as a user does; adds rows, the intervals over them, and the figures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.results import write_result
from benchmarks.transfer.bench import Bench, measured, own_cache, scratch, source_of
from benchmarks.transfer.choice import candidate_of, choice
from benchmarks.transfer.curve import curve, floors
from benchmarks.transfer.evaluation import curve_of, language_of, tasks_of
from benchmarks.transfer.figures import (
    COMMAND,
    CROSS_TASKS,
    DOMAINS,
    LABELS_A_CLASS,
    SEEDS,
    matrix_of,
    missing_of,
    transfer_figures,
)
from benchmarks.transfer.language import language, language_texts
from benchmarks.transfer.recipes import few_settings
from benchmarks.transfer.tasks import task_texts, tasks
from benchmarks.transfer.unlabelled import stand_in, unlabelled
from distill.errors import SettingsError
from distill.machine import describe_environment
from distill.progress import Reporter
from distill.settings import BUILTIN_MINILM
from distill.teacher_settings import TeacherSettings


def run_transfer(folder: Path, *, parts: Sequence[str], seeds: Sequence[int] = SEEDS, reporter: Reporter) -> Bench:
    """Make what is missing of the parts and seeds, seed by seed.

    Args:
        folder: The work folder.
        parts: Of `PARTS`.
        seeds: Of the runs; they decide which labels are few, too.
        reporter: Told of each step.

    Raises:
        SettingsError: A part that is not known.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise SettingsError(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    bench = Bench(folder, reporter)
    for seed in seeds:
        for part in parts:
            PARTS[part](bench, seed)
    return bench


def write_transfer(bench: Bench, **more: Any) -> Path:
    """Write the result file; cells that are missing are named in it.

    Args:
        bench: As `run_transfer` returns it.
        more: For `write_result`: another folder than the committed one.
    """
    rows = bench.rows()
    labels = {domain: "".join(map(str, bench.test(domain).label_ids)) for domain in DOMAINS}
    of_tasks = {task: "".join(map(str, task_texts(bench, task)[2].label_ids)) for task in CROSS_TASKS}
    of_language = "".join(map(str, language_texts().test.label_ids))
    matrix = matrix_of(rows, labels)
    return write_result(
        "transfer",
        command=COMMAND,
        environment=describe_environment(),
        rows=rows,
        figures=transfer_figures(rows, matrix),
        matrix=matrix,
        curve=curve_of(rows, labels),
        tasks=tasks_of(rows, of_tasks),
        language=language_of(rows, of_language),
        missing=missing_of(rows),
        test_labels=labels | of_tasks | {"chinese": of_language},
        **more,
    )


def _teachers(bench: Bench, seed: int) -> None:
    """Each domain's teacher on the test texts of all four: its own score, and what it can do without a label elsewhere."""
    from distill.models.loading import load_bundle

    for domain in DOMAINS:
        if all(bench.done(f"whole-{domain}-{target}-{seed}") for target in DOMAINS):
            continue
        bundle = source_of(bench, domain, seed)
        teacher = load_bundle(bundle)
        seconds = sum(epoch["seconds"] for epoch in bundle.manifest.history)
        for target in DOMAINS:
            row = {"kind": "whole", "source": domain, "target": target, "seed": seed, "training_s": seconds}
            bench.keep(f"whole-{domain}-{target}-{seed}", row | measured(bench, teacher, target))


def _few(bench: Bench, seed: int) -> None:
    """With 200 labels of the target: from each other domain's teacher, from the encoder alone, from nothing."""
    for target in DOMAINS:
        for source in DOMAINS:
            if source == target:
                _few_cell(bench, "few", source, target, seed, model=BUILTIN_MINILM)
            else:
                _few_cell(bench, "few", source, target, seed, init=source)
    if seed == SEEDS[0]:
        for target in DOMAINS:
            _few_cell(bench, "scratch", "random", target, seed, model=str(candidate_of(bench, "random", seed)))


def _few_cell(
    bench: Bench, kind: str, source: str, target: str, seed: int, *, model: str = BUILTIN_MINILM, init: str | None = None
) -> None:
    from distill.models.loading import load_bundle
    from distill.training.fine_tuning import fit_teacher
    from distill.training.origin import Origin

    name = f"{kind}-{source}-{target}-{seed}"
    if bench.done(name):
        return
    bench.reporter.say(f"{target} from {source}, seed {seed}")
    splits = bench.splits[target]
    with scratch(bench.folder) as out:
        bundle = fit_teacher(
            model,
            train=splits.train,
            validation=splits.validation,
            out=out / "bundle",
            settings=few_settings(LABELS_A_CLASS, seed=seed),
            origin=Origin(init=None if init is None else source_of(bench, init, seed)),
            reporter=bench.reporter,
        )
        seconds = sum(epoch["seconds"] for epoch in bundle.manifest.history)
        row = {"kind": kind, "source": source, "target": target, "seed": seed, "training_s": seconds}
        bench.keep(name, row | measured(bench, load_bundle(bundle), target))


def _features(bench: Bench, seed: int) -> None:
    """Movies by a head on frozen features, with an empty cache and again with a full one, against whole fine-tuning."""
    from distill.models.loading import load_bundle
    from distill.training.fine_tuning import fit_teacher
    from distill.transfer.features import FOLDER

    name = f"features-{seed}"
    if bench.done(name):
        return
    splits = bench.splits["movies"]
    seconds = []
    with scratch(bench.folder) as out, own_cache(out / "cache"):
        for number in range(2):
            started = time.perf_counter()
            bundle = fit_teacher(
                train=splits.train,
                validation=splits.validation,
                out=out / f"bundle-{number}",
                settings=TeacherSettings(transfer="features", seed=seed, mixed_precision="auto"),
                reporter=bench.reporter,
            )
            seconds.append(time.perf_counter() - started)
        cache = sum(path.stat().st_size for path in (out / "cache" / FOLDER).iterdir())
        row = {
            "kind": "features",
            "target": "movies",
            "seed": seed,
            "cold_s": seconds[0],
            "warm_s": seconds[1],
            "cache_bytes": cache,
            "layers": bundle.manifest.settings["teacher"]["feature_layer"],
            "fine_tuning_s": _fine_tuning_seconds(bench, seed, out / "tuned"),
            "load_average_1m": os.getloadavg()[0],
            **measured(bench, load_bundle(bundle), "movies"),
        }
    bench.keep(name, row)


def _fine_tuning_seconds(bench: Bench, seed: int, out: Path) -> float:
    """What all epochs of whole fine-tuning take, from one trained here and now: the teacher's own may be of a busier day."""
    from distill.training.fine_tuning import fit_teacher

    splits, settings = bench.splits["movies"], TeacherSettings(seed=seed, mixed_precision="auto")
    once = settings.model_copy(update={"epochs": 1})
    bundle = fit_teacher(train=splits.train, validation=splits.validation, out=out, settings=once, reporter=bench.reporter)
    return settings.epochs * float(bundle.manifest.history[0]["seconds"])


PARTS: Final[dict[str, Callable[[Bench, int], None]]] = {
    "teachers": _teachers,
    "features": _features,
    "few": _few,
    "stand_in": stand_in,
    "unlabelled": unlabelled,
    "choice": choice,
    "floors": floors,
    "curve": curve,
    "tasks": tasks,
    "language": language,
}
"""The parts of the scenario, in the order in which they are made."""
