"""The `quality` scenario: every kind of student over several seeds, against the teachers it is measured by.

Arm by arm: a finished arm of a seed is a bundle and a row file in the work folder, and is not trained again. Trains with
`fit_teacher` and `fit_student`, as a user does; adds rows, the intervals over them, and the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from benchmarks.harness.pieces import Pieces
from benchmarks.harness.scenario import QUALITY, Context, Outcome, Scenario
from benchmarks.harness.texts import task_texts
from benchmarks.quality.arms import ARMS, EFFORT, SEEDS, TASK, TEACHER, UNLABELED, Arm
from benchmarks.quality.summary import points_of, quality_figures, quality_table
from distill.bundle import MANIFEST, WEIGHTS, Bundle
from distill.classifier import agreement, top_labels
from distill.data import Dataset, Splits
from distill.errors import BundleError, PotstillError, SettingsError
from distill.evaluation.metrics import evaluate
from distill.progress import Reporter
from distill.recipes import settings_for
from distill.settings import BUILTIN_MINILM, DataSettings, Precision, Settings
from distill.teacher_settings import TeacherSettings
from export.measure.candidates import bundle_candidate
from export.measure.points import picture_of
from export.measure.rows import measure_speed
from export.pipeline import export_bundle
from export.runtime.sessions import OnnxClassifier
from export.settings import BenchSettings


@dataclass(frozen=True)
class Study:
    """What is trained, on what, and how it is measured; as it stands, that of the committed result.

    Attributes:
        data: The task, with test texts.
        unlabeled: Sources of further texts without labels.
        arms: The students, by name.
        seeds: Seeds of teachers and students.
        model: What the teachers are fine-tuned from.
        teacher: Their settings, all but the seed.
        speed: How the speed of what ships is measured.
    """

    data: DataSettings = DataSettings(train=(TASK,), test=TASK)
    unlabeled: tuple[str, ...] = UNLABELED
    arms: Mapping[str, Arm] = field(default_factory=lambda: ARMS)
    seeds: tuple[int, ...] = SEEDS
    model: str = BUILTIN_MINILM
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    speed: BenchSettings = field(default_factory=BenchSettings)


COMMITTED: Final = Study()


QUICK_TEACHER: Final = TeacherSettings(epochs=2, learning_rate=1e-4)
QUICK_CHANGES: Final[dict[str, Any]] = {"augment": 0, "epochs": 2}
QUICK_SPEED: Final = BenchSettings(rounds=3, texts_per_round=10, settle_s=0.3, throughput_texts=64, throughput_rounds=3)


class QualitySettings(Settings):
    """What is trained."""

    arms: tuple[str, ...] = Field(tuple(ARMS), min_length=1, description="train only these arms")
    seeds: tuple[int, ...] = Field(SEEDS, min_length=1, description="train only with these seeds")


@dataclass(frozen=True)
class Bench:
    """Where a run of the scenario works, and on which texts."""

    study: Study
    folder: Path
    splits: Splits
    unlabeled: tuple[str, ...]
    reporter: Reporter

    @property
    def test(self) -> Dataset:
        """The texts that measure; they choose nothing."""
        if self.splits.test is None:
            raise SettingsError(f"{', '.join(self.study.data.train)} came without test texts")
        return self.splits.test

    def bundle_path(self, name: str, seed: int) -> Path:
        """Return the folder of an arm's bundle."""
        return self.folder / f"{name}-{seed}"

    @property
    def rows(self) -> Pieces:
        """The rows of finished arms, each named `ARM-SEED-PRECISION`."""
        return Pieces(self.folder / "rows")

    def has_row(self, name: str, seed: int, bundle: Bundle, precision: Precision = "fp32") -> bool:
        """Whether there is a row of an arm that was made with this bundle."""
        row = self.rows.find(f"{name}-{seed}-{precision}")
        return row is not None and row["weights_sha256"] == bundle.manifest.files[WEIGHTS].sha256


def run_quality(
    folder: Path,
    *,
    arms: Sequence[str] = tuple(ARMS),
    seeds: Sequence[int] = SEEDS,
    study: Study = COMMITTED,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Train, export and measure what is missing of the arms and seeds; return all rows there are.

    Args:
        folder: Work folder; holds a bundle and row files for each arm and seed, and `teacher-SEED`.
        arms: Names of the study's arms; an arm's assistant is made first.
        seeds: Seeds of the runs. Every teacher of the study is made whatever is named: together they give the soft targets.
        study: What is trained.
        reporter: Told of each step.

    Raises:
        SettingsError: An arm that is not known.
    """
    unknown = [name for name in arms if name not in study.arms]
    if unknown:
        raise SettingsError(f"no arm is called {unknown[0]!r}; there are {', '.join(study.arms)}")
    bench = _bench_in(folder, study, reporter)
    teachers = {seed: _reference_teacher(bench, seed) for seed in study.seeds}
    for seed in seeds:
        for name in arms:
            student = _made(bench, name, seed, teachers)
            if study.arms[name].shipped and not bench.has_row(name, seed, student, "int8"):
                if "int8" not in student.manifest.precisions:
                    student = export_bundle(student, validation=bench.splits.validation, reporter=reporter)
                _write_row(bench, name, seed, student, teacher=teachers[seed], precision="int8")
    return bench.rows.all()


def _bench_in(folder: Path, study: Study, reporter: Reporter) -> Bench:
    return Bench(study, folder, *task_texts(study.data, study.unlabeled), reporter)


def _reference_teacher(bench: Bench, seed: int) -> Bundle:
    from distill.training.fine_tuning import fit_teacher

    path = bench.bundle_path(TEACHER, seed)
    settings = bench.study.teacher.model_copy(update={"seed": seed})
    if (path / MANIFEST).is_file():
        bundle = Bundle.open(path)
    else:
        splits, model = bench.splits, bench.study.model
        bundle = fit_teacher(
            model, train=splits.train, validation=splits.validation, out=path, settings=settings, reporter=bench.reporter
        )
    if bundle.manifest.lineage.train_fingerprint != bench.splits.train.fingerprint() or bundle.manifest.lineage.seed != seed:
        raise BundleError(f"{path} was made from other texts or another seed; move it away")
    if not bench.has_row(TEACHER, seed, bundle):
        _write_row(bench, TEACHER, seed, bundle, teacher=bundle)
    return bundle


def _made(bench: Bench, name: str, seed: int, teachers: Mapping[int, Bundle]) -> Bundle:
    from distill.students.bases import base_of
    from distill.teachers.teacher import open_teacher
    from distill.training.by_recipe import text_facts
    from distill.training.distillation import train_student
    from distill.training.finished import inputs_of, trained_once
    from distill.training.lesson import control_lesson, distillation_lesson

    arm, study = bench.study.arms[name], bench.study
    splits = bench.splits
    others = [teachers[other] for other in study.seeds if other != seed]
    opened = open_teacher([teachers[seed], *others], device="auto")  # the first supplies the layers
    assistant = None if arm.assistant is None else str(_made(bench, arm.assistant, seed, teachers).path)
    changes = {**arm.changes, "seed": seed, "student": assistant}
    lesson_of = control_lesson if arm.control else distillation_lesson
    bundle = trained_once(
        bench.folder,
        bench.bundle_path(name, seed).name,
        settings=settings_for(
            arm.recipe,
            text_facts(opened, splits, len(bench.unlabeled), base=base_of(opened, splits.train.texts)),
            effort=EFFORT,
            changes=changes,
        ),
        decided_by=[*inputs_of(opened, splits, bench.unlabeled), lesson_of.__name__],
        train=partial(train_student, opened, splits, unlabeled=bench.unlabeled, lesson_of=lesson_of, reporter=bench.reporter),
        reporter=bench.reporter,
    )
    if not bench.has_row(name, seed, bundle):
        _write_row(bench, name, seed, bundle, teacher=teachers[seed])
    return bundle


def _write_row(bench: Bench, name: str, seed: int, bundle: Bundle, *, teacher: Bundle, precision: Precision = "fp32") -> None:
    """Ask a student for the test texts and keep every answer, so that any interval can be computed anew.

    In fp32 its PyTorch model is asked, in int8 its graph, one text at a time.
    """
    from distill.models.loading import load_bundle
    from distill.teachers.answers import teacher_logits

    test, model = bench.test, load_bundle(bundle)
    if precision == "fp32":
        logits = model.predict_logits(test.texts)
    else:
        graph = OnnxClassifier.open(bundle, precision=precision)
        logits = np.concatenate([graph.predict_logits([text]) for text in test.texts])
    by_teacher = teacher_logits(load_bundle(teacher), test.texts, reporter=bench.reporter).logits
    manifest = bundle.manifest
    row = {
        "name": name,
        "seed": seed,
        "precision": precision,
        "runtime": "pytorch" if precision == "fp32" else "onnxruntime",
        **asdict(evaluate(labels=test.label_ids, logits=logits, label_names=test.labels)),
        "agreement": agreement(logits, by_teacher),
        "validation_macro_f1": manifest.quality["pytorch"]["macro_f1"],
        "num_parameters": manifest.num_parameters,
        "multiply_adds_per_token": model.multiply_adds_per_token(),
        "size_bytes": bundle.size_bytes(None if precision == "fp32" else precision),
        "weights_sha256": manifest.files[WEIGHTS].sha256,
        "training_s": sum(epoch["seconds"] for epoch in manifest.history),
        "settings": manifest.settings[manifest.role],
        "lineage": manifest.lineage.model_dump(mode="json"),
        "test_fingerprint": test.fingerprint(),
        "predicted": "".join(map(str, top_labels(logits))),
    }
    bench.rows.put(f"{name}-{seed}-{precision}", row)


def missing_runs(rows: Sequence[Mapping[str, Any]], study: Study = COMMITTED) -> list[str]:
    """Return which runs of a study its result file still needs, as arm-seed-precision."""
    there = {(row["name"], row["seed"], row["precision"]) for row in rows}
    wanted = [(TEACHER, seed, "fp32") for seed in study.seeds]
    wanted += [(name, seed, "fp32") for name in study.arms for seed in study.seeds]
    wanted += [(name, seed, "int8") for name, arm in study.arms.items() if arm.shipped for seed in study.seeds]
    return ["-".join(map(str, run)) for run in wanted if run not in there]


def outcome_of(folder: Path, rows: Sequence[Mapping[str, Any]], *, study: Study = COMMITTED, reporter: Reporter) -> Outcome:
    """Measure the speed of what ships, beside the rows; runs that are missing are named.

    Raises:
        PotstillError: A run was made on other test texts.
    """
    bench = _bench_in(folder, study, reporter)
    for row in rows:
        if row["test_fingerprint"] != bench.test.fingerprint():
            raise PotstillError(f"the row of {row['name']}, seed {row['seed']}, was made on other test texts; remove {folder}")
    parts = {"missing": missing_runs(rows, study), "test_labels": "".join(map(str, bench.test.label_ids))}
    return Outcome([*rows, *_speed_of_shipped(bench)], parts)


def _speed_of_shipped(bench: Bench) -> list[dict[str, Any]]:
    """Speed of the first seed's int8 students and of its teacher in PyTorch, taking turns in one run."""
    seed = bench.study.seeds[0]
    teacher = bundle_candidate(Bundle.open(bench.bundle_path(TEACHER, seed)), name=TEACHER, form="pytorch")
    students = [
        bundle_candidate(Bundle.open(bench.bundle_path(name, seed)), name=name, form="int8")
        for name, arm in bench.study.arms.items()
        if arm.shipped and bench.rows.find(f"{name}-{seed}-int8") is not None
    ]
    candidates = [teacher, *students]
    speeds = measure_speed(candidates, bench.test, teacher=teacher, settings=bench.study.speed, reporter=bench.reporter)
    return [
        {
            "name": candidate.name,
            "seed": seed,
            "precision": candidate.precision,
            "runtime": candidate.runtime,
            "measured": "speed",
            "size_bytes": candidate.size_bytes,
            **speeds[candidate.key],
        }
        for candidate in candidates
    ]


def run(settings: QualitySettings, context: Context) -> Outcome:
    """Train what is missing of the arms and seeds; the result names what is still missing then."""
    study = COMMITTED
    if context.quick:
        few = {
            name: replace(ARMS[name], changes={**ARMS[name].changes, **QUICK_CHANGES}, assistant=None) for name in settings.arms
        }
        study = replace(
            COMMITTED,
            data=context.data,
            unlabeled=(),
            arms=few,
            seeds=settings.seeds,
            teacher=QUICK_TEACHER,
            speed=QUICK_SPEED,
        )
    rows = run_quality(context.folder, arms=settings.arms, seeds=settings.seeds, study=study, reporter=context.reporter)
    return outcome_of(context.folder, rows, study=study, reporter=context.reporter)


SCENARIO = Scenario(
    name=QUALITY,
    summary="Train every kind of student with three seeds and compare its quality with the teacher's (hours).",
    settings=QualitySettings,
    run=run,
    figures=quality_figures,
    table=quality_table,
    picture=lambda result: picture_of(points_of(result)),
    decided_by=(
        *("distill/training", "distill/students", "distill/losses", "distill/recipes.py", "distill/teachers"),
        *("export/int8", "benchmarks/quality"),
    ),
    minutes=1500,
    quick={"arms": ("2_layers", "narrow"), "seeds": (0,)},
)
