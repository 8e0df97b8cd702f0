"""The `quality` scenario: every kind of student over several seeds, against the teachers it is measured by.

Arm by arm: a finished arm of a seed is a bundle and a row file in the work folder, and is not trained again. Trains with
`fit_teacher` and `fit_student`, as a user does; adds rows, the intervals over them, and the figures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from benchmarks.harness.deciding import INT8, TIMING, TRAINING
from benchmarks.harness.pieces import Pieces
from benchmarks.harness.scenario import QUALITY, Context, Outcome, Scenario, require_known
from benchmarks.harness.texts import measured_on, task_texts
from benchmarks.quality.arms import ARMS, EFFORT, SEEDS, TASK, TEACHER, UNLABELED, Arm
from benchmarks.quality.summary import points_of, quality_figures, quality_table
from distill.bundle import WEIGHTS, Bundle
from distill.classifier import agreement, top_labels
from distill.data import Dataset, Splits
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
    """What is trained, on what and where, and how it is measured; by default, that of the committed result.

    Attributes:
        folder: Holds a bundle of each arm and seed, `teacher-SEED`, and a row file of each that is finished.
        reporter: Told of each step.
        data: The task, with test texts.
        unlabeled: Sources of further texts without labels.
        arms: The students, by name.
        seeds: Each has a teacher, and students that learn from it.
        model: What the teachers are fine-tuned from.
        teacher: Their settings, all but the seed.
        speed: How the speed of what ships is measured.
    """

    folder: Path
    reporter: Reporter
    data: DataSettings = DataSettings(train=(TASK,), test=TASK)
    unlabeled: tuple[str, ...] = UNLABELED
    arms: Mapping[str, Arm] = field(default_factory=lambda: ARMS)
    seeds: tuple[int, ...] = SEEDS
    model: str = BUILTIN_MINILM
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    speed: BenchSettings = field(default_factory=BenchSettings)

    @cached_property
    def texts(self) -> tuple[Splits, tuple[str, ...]]:
        """The labelled texts, and those without labels that are in none of the splits."""
        return task_texts(self.data, self.unlabeled)

    @property
    def test(self) -> Dataset:
        """The texts that measure; they choose nothing."""
        return measured_on(self.texts[0])

    @property
    def rows(self) -> Pieces:
        """The rows of finished runs, each named `ARM-SEED-PRECISION`."""
        return Pieces(self.folder / "rows")


QUICK_TEACHER: Final = TeacherSettings(epochs=2, learning_rate=1e-4)
QUICK_SPEED: Final = BenchSettings(rounds=3, texts_per_round=10, settle_s=0.3, throughput_texts=64, throughput_rounds=3)


class QualitySettings(Settings):
    """What is trained."""

    arms: tuple[str, ...] = Field(tuple(ARMS), min_length=1, description="train only these arms")
    seeds: tuple[int, ...] = Field(SEEDS, min_length=1, description="train only with these seeds")


def run(settings: QualitySettings, context: Context) -> Outcome:
    """Train what is missing of the arms and seeds; the result names what is still missing then."""
    study = Study(context.folder, context.reporter)
    if context.quick:
        few = {
            name: replace(ARMS[name], changes={**ARMS[name].changes, "augment": 0, "epochs": 2}, assistant=None)
            for name in settings.arms
        }
        study = replace(
            study, data=context.data, unlabeled=(), arms=few, seeds=settings.seeds, teacher=QUICK_TEACHER, speed=QUICK_SPEED
        )
    return run_study(study, arms=settings.arms, seeds=settings.seeds)


def run_study(study: Study, *, arms: Sequence[str], seeds: Sequence[int]) -> Outcome:
    """Train, export and measure what is missing of the arms and seeds; return all rows there are and what is missing then.

    Args:
        study: What is trained.
        arms: Names of its arms; an arm's assistant is made first.
        seeds: Seeds of the runs.

    Raises:
        SettingsError: An arm that is not known.
    """
    require_known("arm", arms, study.arms)
    for seed in seeds:
        teacher = _reference_teacher(study, seed)
        for name in arms:
            _made(study, name, seed, teacher)
    rows = [row for row in study.rows.all() if row["test_fingerprint"] == study.test.fingerprint()]
    there = {f"{row['name']}-{row['seed']}-{row['precision']}" for row in rows}
    forms = {TEACHER: ("fp32",), **{name: ("fp32", "int8") if arm.shipped else ("fp32",) for name, arm in study.arms.items()}}
    wanted = [f"{name}-{seed}-{form}" for name in forms for seed in study.seeds for form in forms[name]]
    missing, labels = [name for name in wanted if name not in there], "".join(map(str, study.test.label_ids))
    return Outcome([*rows, *_speed_of_shipped(study, there)], {"missing": missing, "test_labels": labels})


def _reference_teacher(study: Study, seed: int) -> Bundle:
    """Fine-tune a teacher unless that was done before from the same texts and settings."""
    from export.fitting.training import tuned_teacher

    (splits, _), settings = study.texts, study.teacher.model_copy(update={"seed": seed})
    name = f"{TEACHER}-{seed}"
    bundle = tuned_teacher(study.model, splits, settings, out=study.folder, name=name, reporter=study.reporter)
    _keep_row(study, TEACHER, seed, bundle, teacher=bundle)
    return bundle


def _made(study: Study, name: str, seed: int, teacher: Bundle) -> Bundle:
    """Train a student unless that was done before, write its graphs if it ships, and keep its rows."""
    from distill.students.bases import base_of
    from distill.teachers.teacher import open_teacher
    from distill.training.by_recipe import text_facts
    from distill.training.distillation import train_student
    from distill.training.finished import inputs_of, trained_once
    from distill.training.lesson import control_lesson, distillation_lesson

    arm, (splits, unlabeled) = study.arms[name], study.texts
    opened = open_teacher(teacher, device="auto")
    assistant = None if arm.assistant is None else str(_made(study, arm.assistant, seed, teacher).path)
    lesson_of = control_lesson if arm.control else distillation_lesson
    bundle = trained_once(
        study.folder,
        f"{name}-{seed}",
        settings=settings_for(
            arm.recipe,
            text_facts(opened, splits, len(unlabeled), base=base_of(opened, splits.train.texts)),
            effort=EFFORT,
            changes={**arm.changes, "seed": seed, "student": assistant},
        ),
        decided_by=[*inputs_of(opened, splits, unlabeled), lesson_of.__name__],
        train=partial(train_student, opened, splits, unlabeled=unlabeled, lesson_of=lesson_of, reporter=study.reporter),
        reporter=study.reporter,
    )
    _keep_row(study, name, seed, bundle, teacher=teacher)
    if arm.shipped:
        if "int8" not in bundle.manifest.precisions:
            bundle = export_bundle(bundle, validation=splits.validation, reporter=study.reporter)
        _keep_row(study, name, seed, bundle, teacher=teacher, precision="int8")
    return bundle


def _keep_row(study: Study, name: str, seed: int, bundle: Bundle, *, teacher: Bundle, precision: Precision = "fp32") -> None:
    """Ask a student for the test texts and keep every answer, so that any interval can be computed anew.

    In fp32 its PyTorch model is asked, in int8 its graph, one text at a time. A row that these weights gave for these texts
    is not made again.
    """
    from distill.models.loading import load_bundle
    from distill.teachers.answers import teacher_logits

    test, manifest, place = study.test, bundle.manifest, f"{name}-{seed}-{precision}"
    made_of = {"weights_sha256": manifest.files[WEIGHTS].sha256, "test_fingerprint": test.fingerprint()}
    if made_of.items() <= (study.rows.find(place) or {}).items():
        return
    model = load_bundle(bundle)
    if precision == "fp32":
        logits = model.predict_logits(test.texts)
    else:
        graph = OnnxClassifier.open(bundle, precision=precision)
        logits = np.concatenate([graph.predict_logits([text]) for text in test.texts])
    by_teacher = teacher_logits(load_bundle(teacher), test.texts, reporter=study.reporter).logits
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
        "training_s": manifest.training_s,
        "settings": manifest.settings[manifest.role],
        "lineage": manifest.lineage.model_dump(mode="json"),
        **made_of,
        "predicted": "".join(map(str, top_labels(logits))),
    }
    study.rows.put(place, row)


def _speed_of_shipped(study: Study, finished: Collection[str]) -> list[dict[str, Any]]:
    """Speed of the first finished seed's int8 students and of its teacher in PyTorch, taking turns in one run."""
    seed = next(seed for seed in study.seeds if f"{TEACHER}-{seed}-fp32" in finished)
    shipped = [name for name in study.arms if f"{name}-{seed}-int8" in finished]
    candidates = [
        bundle_candidate(Bundle.open(study.folder / f"{name}-{seed}"), name=name, form="pytorch" if name == TEACHER else "int8")
        for name in (TEACHER, *shipped)
    ]
    speeds = measure_speed(candidates, study.test, teacher=candidates[0], settings=study.speed, reporter=study.reporter)
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


SCENARIO = Scenario(
    name=QUALITY,
    summary="Train every kind of student with five seeds and compare its quality with the teacher's (hours).",
    settings=QualitySettings,
    run=run,
    figures=quality_figures,
    table=quality_table,
    picture=lambda result: picture_of(points_of(result)),
    decided_by=(
        *("benchmarks/scenarios/quality.py", "benchmarks/quality/arms.py", "benchmarks/harness/texts.py"),
        *TRAINING,
        *INT8,
        *TIMING,
    ),
    minutes=240,
    quick={"arms": ("2_layers", "narrow"), "seeds": (0,)},
)
