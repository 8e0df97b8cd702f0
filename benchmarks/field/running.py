"""The scenarios `sst2` and `trec6`: published sets, a teacher of BERT's size, all students over three seeds, in one table.

One command does everything; what is finished is kept in the work folder, so that a run that was killed goes on. No text that
measures chooses anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from benchmarks.field.figures import MANY, QUALITY, SINGLE, TEACHER_GRAPH, field_figures, field_summary
from benchmarks.field.growing import FieldRows
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
from benchmarks.field.shapes import shape_candidates, teacher_shape
from benchmarks.field.study import TEACHER, FieldSettings, FieldStudy
from benchmarks.field.texts import read_field
from benchmarks.harness.candidates import Task, bundle_candidate, floor_candidates
from benchmarks.harness.deciding import INT8, SPEED, TRAINING
from benchmarks.harness.scenario import Context, Outcome, Result
from benchmarks.harness.speed import kept_rows
from distill.bundle import WEIGHTS, Bundle
from distill.classifier import top_labels
from distill.data import Dataset, limited
from distill.errors import GateError, SettingsError
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.labels import Logits
from distill.settings import Precision
from distill.teachers.teacher import Teacher, open_teacher
from distill.texts import TextInput
from distill.training.by_recipe import Learning
from distill.training.finished import whole_bundle
from export.measure.turns import Kind
from export.runtime.sessions import OnnxClassifier

DECIDED_BY = (
    *(f"benchmarks/field/{name}.py" for name in ("growing", "logits", "making", "running", "shapes", "study", "texts")),
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
        weights: The sha256 of its weights.
        texts: Texts without labels, by name: further ones, and noisy copies.
        logits: The teacher's, of the sets that measure, by name.
        published: How many texts of each kind are in the file of published logits.
    """

    teacher: Teacher
    bundle: Bundle | None
    weights: str
    texts: Mapping[str, tuple[str, ...]]
    logits: Mapping[str, Logits]
    published: Mapping[str, int]

    @property
    def unlabeled(self) -> tuple[str, ...]:
        return tuple(text for texts in self.texts.values() for text in texts)


def run_field(study: FieldStudy, settings: FieldSettings, context: Context) -> Outcome:
    """Make and measure what is missing; the result is written after each step, and a later run goes on from it.

    A run that differs from the study in more than which students leaves the study's result alone.

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
    is_of_study = settings.recorded is None and replace(changed, seeds=study.seeds, recipes=study.recipes) == study
    folder = context.out if is_of_study else context.folder
    try:
        with FileLock(context.folder / ".lock", timeout=0):
            return _run(changed, settings, replace(context, out=folder), every=study)
    except Timeout:
        raise SettingsError(f"another run works in {context.folder}; wait for it, or name another --work") from None


def field_part(result: Result) -> Mapping[str, float]:
    """Return the figures of a result."""
    return field_figures(result["scenario"], field_summary(result["rows"], result["truth"], result["labels"]))


def _run(study: FieldStudy, settings: FieldSettings, context: Context, *, every: FieldStudy) -> Outcome:
    if settings.data is None:
        raise SettingsError("name the folder of the set with --data")
    texts = read_field(settings.data, measuring=study.measuring, unlabeled=study.unlabeled)
    for name, count in texts.counts.items():
        context.reporter.say(f"{name.replace('_', ' ')}: {count:,}")
    bench = FieldBench(study, texts, context.folder, context.reporter)
    rows = FieldRows(context.earlier_rows(), {name: part.fingerprint() for name, part in texts.measuring.items()})
    file = context.out / f"{study.name}{SUFFIX}"
    source = _source(bench, settings.recorded, rows, file=file)
    truth = {name: part.label_ids.tolist() for name, part in texts.measuring.items()}

    def outcome() -> Outcome:
        parts = {
            "summary": field_summary(rows.all(), truth, bench.train.labels),
            "labels": bench.train.labels,
            "truth": truth,
            "counts": texts.counts,
            "data_sha256": texts.digests,
            "published_logits": taught.published,
            "missing": rows.missing(every.recipes, every.seeds),
        }
        return Outcome(rows.all(), parts, folder=context.out)

    copies = noisy_copies(bench, bench.base())
    # Most of the answers are to copies. The others are written before them, so that a run that is lost then leaves these.
    is_first = isinstance(source, Bundle) and rows.weights_of(TEACHER) is None
    for some in ((), copies) if is_first else (copies,):
        taught = _taught(bench, source, {"further": texts.further, "copies": some}, file=file)
        rows.keep(*_teacher_rows(bench, taught, rows), *_floor_rows(bench))
        context.save(outcome())
    for student in _students(bench, taught, rows):
        rows.keep(*student)
        context.save(outcome())
    if settings.recorded is not None:  # whoever learns from the file needs no encoder of the teacher's size
        return outcome()
    for timing in _timings(bench, taught, rows, context):
        rows.keep(*timing)
        context.save(outcome())
    return outcome()


def _taught(
    bench: FieldBench, source: Bundle | PublishedLogits, texts: Mapping[str, tuple[str, ...]], *, file: Path
) -> _Taught:
    """Return the teacher, what it is asked and its answers, which are written to the file of published logits."""
    teacher = open_teacher(source, device="auto")
    if isinstance(source, PublishedLogits):
        known = {name: _known(source, some) for name, some in texts.items()}
        for name, some in texts.items():
            bench.reporter.say(f"published logits: {len(known[name]):,} of {len(some):,} {name} texts")
        logits = {name: source.predict_logits(part.texts) for name, part in bench.texts.measuring.items()}
        counts = {name: int(source.knows(some).sum()) for name, some in _asked(bench, texts).items()}
        return _Taught(teacher, None, source.teacher, known, logits, counts)
    parts = {name: (some, answered(bench, teacher, some)) for name, some in _asked(bench, texts).items()}
    weights = source.manifest.files[WEIGHTS].sha256
    published = write_logits(file, parts, labels=bench.train.labels, teacher=weights)
    return _Taught(teacher, source, weights, texts, {name: parts[name][1] for name in bench.texts.measuring}, published)


def _source(bench: FieldBench, recorded: Path | None, rows: FieldRows, *, file: Path) -> Bundle | PublishedLogits:
    """Return the teacher; where an earlier run elsewhere has made it and its logits are here, these."""
    if recorded is not None:
        return PublishedLogits(recorded)
    earlier = rows.weights_of(TEACHER)
    if earlier and file.is_file() and whole_bundle(bench.work / TEACHER) is None:
        published = PublishedLogits(file)
        if published.teacher == earlier:
            bench.reporter.say(f"the teacher is not in {bench.work}; the students learn from its published logits, {file}")
            return published
    return made_teacher(bench)


def _asked(bench: FieldBench, texts: Mapping[str, tuple[str, ...]]) -> dict[str, Sequence[TextInput]]:
    """Return all texts that the teacher is asked for, the most important first."""
    measuring = {name: part.texts for name, part in bench.texts.measuring.items()}
    return {"train": bench.train.texts, "validation": bench.validation.texts, **measuring, **texts}


def _known(source: PublishedLogits, texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text, known in zip(texts, source.knows(texts), strict=True) if known)


def _students(bench: FieldBench, taught: _Taught, rows: FieldRows) -> Iterator[list[dict[str, Any]]]:
    """Train, export and ask every student that has no row yet, and yield the rows of each."""
    missing = [
        (name, seed)
        for seed in bench.study.seeds
        for name in bench.study.recipes
        if not rows.has_student(name, seed, teacher=taught.weights)
    ]
    if not missing:
        return
    base = bench.base()
    facts = facts_of(bench, base, len(taught.unlabeled))
    promise_students(bench, base, facts, missing)
    learning = Learning(taught.teacher, bench.texts.splits, taught.unlabeled, bench.reporter)
    for name, seed in missing:
        identity = {"measured": QUALITY, "name": name, "seed": seed}
        try:
            bundle = made_student(learning, stages_for(bench, name, facts, seed=seed), folder=bench.work / STUDENTS)
        except GateError as exc:  # the others are made all the same, and the result says that this one is missing
            bench.reporter.say(f"{name}, seed {seed}, is left out: {exc}")
            yield [{**identity, "precision": "int8", "failed": str(exc)}]
            continue
        yield _student_rows(bench, taught, bundle, name, seed)


def _student_rows(bench: FieldBench, taught: _Taught, bundle: Bundle, name: str, seed: int) -> list[dict[str, Any]]:
    """Return the rows of a student's two graphs, which answer every measuring text alone."""
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
                "weights_sha256": bundle.manifest.files[WEIGHTS].sha256,
                "teacher_sha256": taught.weights,
                "learns_from": "published logits" if taught.bundle is None else "the teacher",
                "num_unlabeled": len(taught.unlabeled),
                "training_s": bundle.manifest.training_s,
                "settings": bundle.manifest.settings["student"],
                "validation": bundle.manifest.quality,
            }
        )
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


def _teacher_rows(bench: FieldBench, taught: _Taught, rows: FieldRows) -> list[dict[str, Any]]:
    """Return the teacher's row; of one whose logits alone are known, the earlier row if there is one."""
    bundle = taught.bundle
    row = {**_quality_row(TEACHER, bench, taught.logits), "seed": bench.study.seeds[0], "precision": "fp32"}
    if bundle is None:
        return [] if rows.weights_of(TEACHER) == taught.weights else [{**row, "size_bytes": None, "num_parameters": None}]
    manifest = bundle.manifest
    return [
        {
            **row,
            "size_bytes": bundle.size_bytes(None),
            "num_parameters": manifest.num_parameters,
            "weights_sha256": taught.weights,
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


def _timings(bench: FieldBench, taught: _Taught, rows: FieldRows, context: Context) -> Iterator[list[dict[str, Any]]]:
    """Time the first seed's students, the teacher, the floors and the published shapes in one run, single texts and many.

    They are timed once all of these students are in the work folder. Where the teacher is not, an untrained model of its shape
    is timed, which takes as long.
    """
    study = bench.study
    folders = {name: bench.work / STUDENTS / f"{name}-seed-{study.seeds[0]}" for name in study.recipes}
    exported = {name: bundle for name, path in folders.items() if (bundle := whole_bundle(path)) is not None}
    exported = {name: bundle for name, bundle in exported.items() if "int8" in bundle.manifest.precisions}
    if rows.are_timed(exported) or len(exported) < sum(rows.has_student(name, study.seeds[0]) for name in study.recipes):
        return
    teacher, shapes = taught.bundle or teacher_shape(bench), shape_candidates(bench)
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
    untrained = {each.name for each in (*shapes, *(candidates[:2] if taught.bundle is None else ()))}
    kinds: tuple[tuple[str, Kind], ...] = ((SINGLE, "single"), (MANY, "many"))
    for measured, kind in kinds:
        found = kept_rows(kind, candidates, task, study.speed, context)
        yield [_timed(row, measured, is_random=row["name"] in untrained) for row in found]


_OF_WEIGHTS = frozenset(
    {"accuracy", "agreement", "expected_calibration_error", "macro_f1", "macro_f1_interval", "predicted", "retention"}
)


def _timed(row: Mapping[str, Any], measured: str, *, is_random: bool) -> dict[str, Any]:
    """Return a row of speed, without the quality of its answers but for the teacher's graph, which has no other row."""
    has_answers = not is_random and row["name"] == TEACHER_GRAPH
    kept = {name: value for name, value in row.items() if has_answers or name not in _OF_WEIGHTS}
    return {"measured": measured, **({"weights": "random"} if is_random else {}), **kept}
