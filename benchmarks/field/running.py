"""The scenarios `sst2` and `trec6`: published sets, a teacher of BERT's size, all students over three seeds, in one table.

One command does everything; what is finished is kept in the work folder, so that a run that was killed goes on. No text that
measures chooses anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from benchmarks.field.figures import MANY, QUALITY, SINGLE, field_figures, field_summary
from benchmarks.field.logits import SUFFIX, PublishedLogits, write_logits
from benchmarks.field.making import (
    STUDENTS,
    FieldBench,
    answered,
    facts_of,
    made_student,
    made_teacher,
    noisy_copies,
    promise_students,
    stages_for,
)
from benchmarks.field.shapes import shape_candidates
from benchmarks.field.study import TEACHER, FieldSettings, FieldStudy
from benchmarks.field.texts import read_field
from benchmarks.harness.candidates import Task, bundle_candidate, floor_candidates
from benchmarks.harness.deciding import INT8, SPEED, TRAINING
from benchmarks.harness.results import read_result
from benchmarks.harness.scenario import Context, Outcome, Result
from benchmarks.harness.speed import kept_rows
from distill.bundle import WEIGHTS, Bundle
from distill.classifier import top_labels
from distill.data import Dataset, limited
from distill.errors import GateError, SettingsError
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.labels import Logits
from distill.recipes import RecipeName
from distill.settings import Precision
from distill.storage import write_atomically
from distill.teachers.teacher import Teacher, open_teacher
from distill.training.by_recipe import Learning
from export.measure.turns import Kind
from export.runtime.sessions import OnnxClassifier

DECIDED_BY = (
    *(f"benchmarks/field/{name}.py" for name in ("logits", "making", "running", "shapes", "study", "texts")),
    *SPEED,
    *TRAINING,
    *INT8,
)


@dataclass(frozen=True)
class _Taught:
    """What the students learn from.

    Attributes:
        teacher: Opened.
        bundle: The teacher's bundle; None where only its logits are known.
        texts: Texts without labels, by name: further ones, and noisy copies.
        logits: The teacher's, of the sets that measure, by name.
        published: How many texts of each kind are in the file of published logits.
    """

    teacher: Teacher
    bundle: Bundle | None
    texts: Mapping[str, tuple[str, ...]]
    logits: Mapping[str, Logits]
    published: Mapping[str, int]

    @property
    def unlabeled(self) -> tuple[str, ...]:
        return tuple(text for texts in self.texts.values() for text in texts)


def run_field(study: FieldStudy, settings: FieldSettings, context: Context) -> Outcome:
    """Make and measure what is missing; a run that differs from the study in more than which students leaves its result alone.

    Args:
        study: What is trained.
        settings: Where the set is, and what differs.
        context: Where.

    Raises:
        SettingsError: No set was named, or another run works in the folder.
        PotstillError: The set cannot be read, or a step fails.
    """
    context.folder.mkdir(parents=True, exist_ok=True)
    changed = settings.study_of(study)
    folder = context.out if settings.recorded is None and renews_result(study, changed, context.out) else context.folder
    try:
        with FileLock(context.folder / ".lock", timeout=0):
            return _run(changed, settings, replace(context, out=folder), every=study.recipes)
    except Timeout:
        raise SettingsError(f"another run works in {context.folder}; wait for it, or name another --work") from None


def renews_result(study: FieldStudy, changed: FieldStudy, folder: Path) -> bool:
    """Return whether a run is kept as the study's result: like it but for its students, of which it has all earlier ones."""
    if replace(changed, seeds=study.seeds, recipes=study.recipes) != study:
        return False
    there = (folder / f"{study.name}.json").is_file()
    earlier = read_result(study.name, folder=folder)["rows"] if there else ()
    students = {(row["name"], row["seed"]) for row in earlier if row["measured"] == QUALITY and row["name"] in study.recipes}
    return students <= {(name, seed) for name in changed.recipes for seed in changed.seeds}


def field_part(result: Result) -> Mapping[str, float]:
    """Return the figures of a result."""
    return field_figures(result["scenario"], field_summary(result["rows"], result["truth"], result["labels"]))


def _run(study: FieldStudy, settings: FieldSettings, context: Context, *, every: tuple[RecipeName, ...]) -> Outcome:
    if settings.data is None:
        raise SettingsError("name the folder of the set with --data")
    texts = read_field(settings.data, measuring=study.measuring, unlabeled=study.unlabeled)
    for name, count in texts.counts.items():
        context.reporter.say(f"{name.replace('_', ' ')}: {count:,}")
    bench = FieldBench(study, texts, context.folder, context.reporter)
    taught = _taught(bench, settings.recorded, file=context.out / f"{study.name}{SUFFIX}")
    students = _students(bench, taught)
    rows = [*_teacher_rows(bench, taught), *_floor_rows(bench), *students]
    rows += [] if taught.bundle is None else _speed_rows(bench, taught.bundle, context)
    truth = {name: part.label_ids.tolist() for name, part in texts.measuring.items()}
    parts = {
        "summary": field_summary(rows, truth, bench.train.labels),
        "labels": bench.train.labels,
        "truth": truth,
        "counts": texts.counts,
        "data_sha256": texts.digests,
        "published_logits": taught.published,
        "missing": _missing(rows, replace(study, recipes=every)),
    }
    return Outcome(rows, parts, folder=context.out)


def _taught(bench: FieldBench, recorded: Path | None, *, file: Path) -> _Taught:
    """Return the teacher, what it is asked and its answers, which are written to the file of published logits."""
    source = made_teacher(bench) if recorded is None else PublishedLogits(recorded)
    teacher = open_teacher(source, device="auto")
    texts = {"further": bench.texts.further, "copies": noisy_copies(bench, bench.base())}
    if isinstance(source, PublishedLogits):
        known = {name: _known(source, some) for name, some in texts.items()}
        for name, some in texts.items():
            bench.reporter.say(f"published logits: {len(known[name]):,} of {len(some):,} {name} texts")
        logits = {name: source.predict_logits(part.texts) for name, part in bench.texts.measuring.items()}
        return _Taught(teacher, None, known, logits, {name: len(some) for name, some in known.items()})
    labelled = {"train": bench.train.texts, "validation": bench.validation.texts}
    measuring = {name: part.texts for name, part in bench.texts.measuring.items()}
    asked = {**labelled, **measuring, **texts}
    parts = {name: (some, answered(bench, teacher, some)) for name, some in asked.items()}
    published = write_logits(file, parts, labels=bench.train.labels, teacher=source.manifest.files[WEIGHTS].sha256)
    return _Taught(teacher, source, texts, {name: parts[name][1] for name in measuring}, published)


def _known(source: PublishedLogits, texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text, known in zip(texts, source.knows(texts), strict=True) if known)


def _students(bench: FieldBench, taught: _Taught) -> list[dict[str, Any]]:
    """Train, export and ask every student of every seed that has no row yet; return all rows."""
    base = bench.base()
    facts = facts_of(bench, base, len(taught.unlabeled))
    promise_students(bench, base, facts)
    learning = Learning(taught.teacher, bench.texts.splits, taught.unlabeled, bench.reporter)
    rows = []
    for seed in bench.study.seeds:
        for name in bench.study.recipes:
            stages = stages_for(bench, name, facts, seed=seed)
            try:
                bundle = made_student(learning, stages, folder=bench.work / STUDENTS)
            except GateError as exc:  # the others are made all the same, and the result says that this one is missing
                bench.reporter.say(f"{name}, seed {seed}, is left out: {exc}")
                rows.append({"measured": QUALITY, "name": name, "seed": seed, "precision": "int8", "failed": str(exc)})
                continue
            rows += _student_rows(bench, bundle, name, seed)
    return rows


def _student_rows(bench: FieldBench, bundle: Bundle, name: str, seed: int) -> list[dict[str, Any]]:
    """Return the rows of a student's two graphs, which answered every measuring text alone; kept in a file."""
    path = bench.work / "rows" / f"{name}-{seed}.json"
    answers = {
        "weights_sha256": bundle.manifest.files[WEIGHTS].sha256,
        "test_fingerprints": {part: data.fingerprint() for part, data in bench.texts.measuring.items()},
    }
    if path.is_file():
        kept: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        if all(row[key] == value for row in kept for key, value in answers.items()):
            return kept
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    rows = []
    for precision in precisions:
        graph = OnnxClassifier.open(bundle, precision=precision)
        rows.append(
            {
                **_quality_row(name, bench, {part: _alone(graph, data) for part, data in bench.texts.measuring.items()}),
                "seed": seed,
                "precision": precision,
                "size_bytes": bundle.size_bytes(precision),
                "num_parameters": bundle.manifest.num_parameters,
                **answers,
                "training_s": bundle.manifest.training_s,
                "settings": bundle.manifest.settings["student"],
                "validation": bundle.manifest.quality,
            }
        )
    write_atomically(path, json.dumps(rows, allow_nan=False))
    return rows


def _alone(graph: OnnxClassifier, data: Dataset) -> Logits:
    return np.concatenate([graph.predict_logits([text]) for text in data.texts])


def _quality_row(name: str, bench: FieldBench, logits: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    return {
        "measured": QUALITY,
        "name": name,
        "predicted": {part: "".join(map(str, top_labels(found))) for part, found in logits.items()},
        "accuracy": {
            part: float((top_labels(found) == bench.texts.measuring[part].label_ids).mean()) for part, found in logits.items()
        },
    }


def _teacher_rows(bench: FieldBench, taught: _Taught) -> list[dict[str, Any]]:
    bundle = taught.bundle
    row = {**_quality_row(TEACHER, bench, taught.logits), "seed": bench.study.seeds[0], "precision": "fp32"}
    if bundle is None:
        return [{**row, "size_bytes": None, "num_parameters": None}]
    manifest = bundle.manifest
    return [
        {
            **row,
            "size_bytes": bundle.size_bytes(None),
            "num_parameters": manifest.num_parameters,
            "weights_sha256": manifest.files[WEIGHTS].sha256,
            "training_s": manifest.training_s,
            "settings": manifest.settings[TEACHER],
            "validation": manifest.quality,
        }
    ]


def _floor_rows(bench: FieldBench) -> list[dict[str, Any]]:
    floors: dict[str, TfidfClassifier | MajorityClassifier] = {
        "tfidf": TfidfClassifier(bench.train),
        "majority": MajorityClassifier(bench.train),
    }
    return [
        {
            **_quality_row(
                name, bench, {part: floor.predict_logits(data.texts) for part, data in bench.texts.measuring.items()}
            ),
            "seed": bench.study.seeds[0],
            "precision": "fp32",
            "size_bytes": None,
            "num_parameters": floor.num_parameters,
        }
        for name, floor in floors.items()
    ]


def _speed_rows(bench: FieldBench, teacher: Bundle, context: Context) -> list[dict[str, Any]]:
    """Time the first seed's students, the teacher, the floors and the published shapes in one run, single texts and many."""
    study = bench.study
    students = {name: bench.work / STUDENTS / f"{name}-seed-{study.seeds[0]}" for name in study.recipes}
    exported = {name: Bundle.open(path) for name, path in students.items()}
    exported = {name: bundle for name, bundle in exported.items() if "int8" in bundle.manifest.precisions}
    shapes = shape_candidates(
        bench.work / "shapes",
        base=study.base,
        labels=bench.train.labels,
        max_length=teacher.manifest.max_length,
        reporter=bench.reporter,
    )
    candidates = [
        bundle_candidate(teacher, "pytorch", name=TEACHER),
        bundle_candidate(teacher, "fp32", name=TEACHER),
        *(bundle_candidate(bundle, "int8", name=name) for name, bundle in exported.items()),
        *shapes,
        *floor_candidates(teacher.path),
    ]
    task = Task(
        test=limited(bench.texts.measuring[study.measuring[0]], study.speed.texts or None, seed=study.seeds[0]),
        train=bench.train,
        validation=bench.validation,
        teacher=teacher.path,
        work=bench.work / "timing",
    )
    random = {candidate.name for candidate in shapes}
    rows = []
    kinds: tuple[tuple[str, Kind], ...] = ((SINGLE, "single"), (MANY, "many"))
    for measured, kind in kinds:
        found = kept_rows(kind, candidates, task, study.speed, context)
        rows += [_timed(row, measured, is_random=row["name"] in random) for row in found]
    return rows


_OF_WEIGHTS = frozenset(
    {"accuracy", "agreement", "expected_calibration_error", "macro_f1", "macro_f1_interval", "predicted", "retention"}
)


def _timed(row: Mapping[str, Any], measured: str, *, is_random: bool) -> dict[str, Any]:
    """Return a row of speed; one of random weights without the quality of its answers."""
    kept = {name: value for name, value in row.items() if not (is_random and name in _OF_WEIGHTS)}
    return {"measured": measured, **({"weights": "random"} if is_random else {}), **kept}


def _missing(rows: Sequence[Mapping[str, Any]], study: FieldStudy) -> list[str]:
    """Return which students of which seeds have no int8 graph."""
    there = {(row["name"], row["seed"]) for row in rows if row["measured"] == QUALITY and "failed" not in row}
    return [f"{name}-{seed}" for name in study.recipes for seed in study.seeds if (name, seed) not in there]
