"""The demo: floors, teacher, control, student, graphs, quality, speed and report on the built-in movie sentences.

Finished steps are not repeated: a bundle is reused if its lineage and settings match, measurements if the digests of everything
that was measured match.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from distill.bundle import WEIGHTS, Bundle
from distill.data import Dataset, Splits, fingerprint, load_splits, read_texts, texts_not_in
from distill.errors import BundleError, SettingsError, requires
from distill.manifest import Lineage, Role
from distill.progress import Reporter, SilentReporter
from distill.settings import BUILTIN_MINILM, DataSettings, DistillSettings, Settings
from distill.storage import require_writable, write_atomically
from distill.teacher_settings import TeacherSettings
from distill.texts import joined
from export.measure.candidates import Candidate, bundle_candidate, floor_candidates
from export.measure.rows import SCHEMA, measure, measured_before
from export.pipeline import export_bundle
from export.settings import BenchSettings, DemoSettings, ExportSettings

TASK: Final = "movies"
TEACHER: Final = "teacher"
STUDENT: Final = "student"
CONTROL: Final = "student_no_distillation"


@dataclass(frozen=True)
class Profile:
    """The settings of every stage under one name.

    Attributes:
        data: Where the labelled texts come from.
        unlabeled: Data sets whose texts the student learns from too, without their labels.
        teacher: Settings of fine-tuning the teacher.
        student: Settings of the student, and of the control, which learns without the teacher's logits.
        export: Settings of the graphs and their gates.
        bench: Settings of measuring.
        model: The encoder of the teacher, as named in its lineage.
    """

    data: DataSettings
    unlabeled: tuple[str, ...]
    teacher: TeacherSettings
    student: DistillSettings
    export: ExportSettings
    bench: BenchSettings
    model: str = BUILTIN_MINILM


def profile_of(settings: DemoSettings) -> Profile:
    """Return the settings of every stage for a profile and a seed."""
    source = f"builtin:{TASK}"
    seed = settings.seed
    if settings.profile == "full":
        return Profile(
            data=DataSettings(train=(source,), test=source),
            # Texts of other domains, whose labels are never read: a shallow student gains most from more texts.
            unlabeled=("builtin:amazon", "builtin:tweets", "builtin:nyt"),
            teacher=TeacherSettings(seed=seed),
            student=DistillSettings(seed=seed, num_layers=3),
            export=ExportSettings(),
            bench=BenchSettings(),
        )
    return Profile(
        data=DataSettings(train=(source,), test=source, limit=1600),
        unlabeled=(),
        teacher=TeacherSettings(seed=seed, epochs=2, learning_rate=1e-4),
        student=DistillSettings(seed=seed, num_layers=3, epochs=2),
        # 160 validation texts: one text is 0.006, so a sample needs wider budgets
        export=ExportSettings(budget_f1=0.03, budget_recall=0.06, min_agreement=0.94),
        bench=BenchSettings(rounds=7, texts_per_round=100, throughput_rounds=1),
    )


def run_demo(out: Path, settings: DemoSettings = DemoSettings(), *, reporter: Reporter | None = None) -> dict[str, Any]:
    """Run the demo and write `report.json`, `report.html` and the bundles to `out`.

    Returns:
        The report, as written.

    Raises:
        PotstillError: The error of any stage; finished stages are kept and not repeated next time.
    """
    reporter = reporter or SilentReporter()
    require_writable(out)
    with requires("the demo"):
        from export.measure.report import write_report
    profile = profile_of(settings)
    reporter.say(f"1 of 6  data: builtin:{TASK}")
    splits = load_splits(profile.data)
    if splits.test is None:
        raise SettingsError("the demo needs test texts to measure on, and the data has none")
    for note in splits.notes:
        reporter.say(f"        {note}")
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    further = [joined(text) for source in profile.unlabeled for text in read_texts(source, profile.data)]
    unlabeled = tuple(texts_not_in(further, parts.values()))
    if unlabeled:
        reporter.say(f"        {len(unlabeled)} texts of {', '.join(profile.unlabeled)}, without their labels")
    teacher, control, student = _bundles(out, splits, unlabeled, profile, reporter)
    candidates = [
        bundle_candidate(teacher, name=TEACHER, form="pytorch"),
        bundle_candidate(control, name=CONTROL, form="fp32"),
        bundle_candidate(student, name=STUDENT, form="fp32"),
        bundle_candidate(student, name=STUDENT, form="int8"),
        *floor_candidates(splits.train),
    ]
    report = {
        "schema": SCHEMA,
        "task": TASK,
        "profile": settings.profile,
        "seed": settings.seed,
        **_measured(out, candidates, splits.train, splits.test, profile, reporter),
        "data": {
            "notes": list(splits.notes),
            **{name: {"counts": part.counts, "fingerprint": part.fingerprint()} for name, part in parts.items()},
            "unlabeled": {"sources": list(profile.unlabeled), "count": len(unlabeled)},
        },
        "settings": {
            stage: getattr(profile, stage).model_dump(mode="json")
            for stage in ("data", "teacher", "student", "export", "bench")
        },
    }
    write_report(out, report)
    return report


def _bundles(
    out: Path, splits: Splits, unlabeled: tuple[str, ...], profile: Profile, reporter: Reporter
) -> tuple[Bundle, Bundle, Bundle]:
    with requires("the demo"):
        from distill.training.distillation import fit_student
        from distill.training.fine_tuning import fit_teacher

    def student_at(folder: str, chosen: DistillSettings, further: tuple[str, ...]) -> Bundle:
        wanted = _lineage(profile.model, splits, chosen.seed, teacher=teacher, unlabeled=further)
        return _already_made(out / folder, "student", chosen, wanted, reporter) or fit_student(
            teacher,
            train=splits.train,
            validation=splits.validation,
            unlabeled=further,
            out=out / folder,
            settings=chosen,
            reporter=reporter,
        )

    reporter.say(f"2 of 6  teacher: fine-tuning {profile.model}")
    wanted = _lineage(profile.model, splits, profile.teacher.seed, teacher=None, unlabeled=())
    teacher = _already_made(out / TEACHER, "teacher", profile.teacher, wanted, reporter) or fit_teacher(
        profile.model,
        train=splits.train,
        validation=splits.validation,
        out=out / TEACHER,
        settings=profile.teacher,
        reporter=reporter,
    )
    reporter.say(f"3 of 6  control: a student with {profile.student.num_layers} layers, trained on the labels alone")
    control = student_at(CONTROL, profile.student.model_copy(update={"soft_weight": 0.0}), ())
    reporter.say("4 of 6  student: the same, distilled from the teacher")
    student = student_at(STUDENT, profile.student, unlabeled)
    reporter.say("5 of 6  export: fp32 and int8 graphs, each checked before it is saved")
    control = _exported(control, profile.export.model_copy(update={"precisions": ("fp32",)}), splits, reporter)
    student = _exported(student, profile.export, splits, reporter)
    return teacher, control, student


def _exported(bundle: Bundle, settings: ExportSettings, splits: Splits, reporter: Reporter) -> Bundle:
    if bundle.manifest.settings.get("export") == settings.model_dump(mode="json"):
        reporter.say(f"        {bundle.path.name}: already done")
        return bundle
    return export_bundle(bundle, validation=splits.validation, settings=settings, reporter=reporter)


def _lineage(model: str, splits: Splits, seed: int, *, teacher: Bundle | None, unlabeled: tuple[str, ...]) -> Lineage:
    """Return the lineage of a bundle of this run."""
    return Lineage(
        base_model=model,
        teacher_sha256=teacher.manifest.files[WEIGHTS].sha256 if teacher else None,
        train_fingerprint=splits.train.fingerprint(),
        validation_fingerprint=splits.validation.fingerprint(),
        unlabeled_fingerprint=fingerprint(unlabeled) if unlabeled else None,
        seed=seed,
    )


def _already_made(path: Path, stage: Role, settings: Settings, wanted: Lineage, reporter: Reporter) -> Bundle | None:
    """Return the bundle of an earlier run if it is complete and has this lineage and these settings, else None."""
    try:
        bundle = Bundle.open(path)
    except BundleError:
        return None
    if bundle.manifest.lineage != wanted or bundle.manifest.settings.get(stage) != settings.model_dump(mode="json"):
        return None
    reporter.say("        already done")
    return bundle


def _measured(
    out: Path, candidates: Sequence[Candidate], train: Dataset, test: Dataset, profile: Profile, reporter: Reporter
) -> dict[str, Any]:
    """Return quality and speed of all candidates; those of an earlier run if nothing they depend on has changed."""
    kept = out / "measured.json"
    digests = [Bundle.open(c.bundle_path).manifest.to_bytes().decode() for c in candidates if c.bundle_path]
    parts = [digests, test.fingerprint(), train.fingerprint(), profile.bench.model_dump(mode="json")]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    reporter.say(f"6 of 6  quality on {len(test)} test texts, then speed")
    if found := measured_before(kept, key):
        reporter.say("        already done")
        return found
    result = measure(candidates, test, teacher=candidates[0], settings=profile.bench, reporter=reporter)
    write_atomically(kept, json.dumps({"key": key, **result}))
    return result
