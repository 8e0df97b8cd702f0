"""The same student trained several times: over seeds, and beside a control that learns from the labels alone.

    out/                        the chosen student's bundle, and report.json
    out/runs/student-seed-0/    each run's own bundle
    out/runs/control-seed-0/
    out/runs/finished.json      a digest of what each finished run was made from, so that it is not repeated

Student and control are trained by the same function, with another lesson; `distill.evaluation.proof` compares them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from distill.bundle import WEIGHTS, Bundle, new_bundle_folder, seal_new_bundle
from distill.data import Dataset, Splits, fingerprint
from distill.errors import BundleError
from distill.evaluation.proof import ARMS, ArmName, ProofReport, Run, prove
from distill.models.loading import load_bundle
from distill.progress import Reporter, SilentReporter
from distill.settings import DistillSettings, TrialSettings
from distill.storage import require_writable, write_atomically
from distill.teachers.teacher import AnyTeacher, Teacher, open_teacher
from distill.training.distillation import train_student
from distill.training.lesson import Prepared, control_lesson, distillation_lesson
from distill.training.loop import Lesson
from distill.training.processes import open_accelerator
from distill.training.shared_files import logits_together, shared_files

RUNS = "runs"
FINISHED = "finished.json"
REPORT = "report.json"
FURTHER = ".unlabeled"
LESSONS: dict[ArmName, Callable[[Prepared], Lesson]] = {"student": distillation_lesson, "control": control_lesson}


def run_trials(
    teacher: AnyTeacher | Sequence[AnyTeacher] | Teacher,
    splits: Splits,
    *,
    out: Path | str,
    unlabeled: Iterable[str] = (),
    settings: DistillSettings | None = None,
    trials: TrialSettings,
    reporter: Reporter | None = None,
) -> tuple[Bundle, ProofReport]:
    """Train a student once per seed, with a control beside it if asked for, and report what can be concluded.

    Finished runs are kept when the command is repeated; an interrupted run resumes.

    Args:
        teacher: As for `fit_student`.
        splits: Texts to learn from; validation texts, which choose epochs and the seed whose student is kept in `out`;
            and test texts that the arms are compared on. Without test texts the arms are compared on the validation
            texts, and the report says so.
        out: Folder of the kept student, the report and, below `runs`, every bundle.
        unlabeled: Further texts for the student; the control takes as many steps on the labelled ones instead.
        settings: Settings of the student; the seeds start at its own.
        trials: How many seeds, and whether there is a control.
        reporter: Told of progress.

    Returns:
        The kept student, and the report, which is also written to `out`.

    Raises:
        PotstillError: Any that `fit_student` raises.
    """
    settings, reporter, out = settings or DistillSettings(), reporter or SilentReporter(), Path(out)
    require_writable(out / RUNS)
    opened = open_teacher(teacher, device=settings.device)
    measured = splits.validation if splits.test is None else splits.test
    with (
        open_accelerator(settings.device) as accelerator,
        shared_files(out / RUNS / FURTHER, accelerator) as files,
    ):
        further = files.texts("texts", unlabeled)  # read once, learnt from in every run
        arms = _trained_arms(opened, splits, further, settings=settings, trials=trials, out=out, reporter=reporter)
        best = max(arms["student"], key=lambda run: run.validation_macro_f1)  # the first of equals
        report = prove(
            measured,
            split="validation" if splits.test is None else "test",
            teacher=logits_together(opened.asked, measured.texts, files=files, name="measured", reporter=reporter).logits,
            arms=arms,
            chosen_seed=best.seed,
        )
        files.made(lambda: _keep(Bundle.open(out / best.folder), out))
        files.made(lambda: write_atomically(out / REPORT, json.dumps(report.to_dict(), indent=2) + "\n"))
    return Bundle.open(out), report


def _trained_arms(
    teacher: Teacher,
    splits: Splits,
    unlabeled: Sequence[str],
    *,
    settings: DistillSettings,
    trials: TrialSettings,
    out: Path,
    reporter: Reporter,
) -> dict[ArmName, list[Run]]:
    """Train every arm with every seed, unless that is done, and label the texts that measure them."""
    finished = _Finished(out / RUNS)
    measured = splits.validation if splits.test is None else splits.test
    datasets = (splits.train, splits.validation, splits.test)
    decided_by = [teacher.digest(), *[data and data.fingerprint() for data in datasets], fingerprint(unlabeled)]
    arms: dict[ArmName, list[Run]] = {}
    for arm in ARMS if trials.control else ARMS[:1]:
        for seed in range(settings.seed, settings.seed + trials.seeds):
            own = settings.model_copy(update={"seed": seed})
            name = f"{arm}-seed-{seed}"
            key = hashlib.sha256(json.dumps([*decided_by, own.model_dump(mode="json"), arm]).encode()).hexdigest()
            bundle = finished.find(name, key)
            reporter.say(f"{arm}, seed {seed}{': already done' if bundle else ''}")
            if bundle is None:
                bundle = train_student(
                    teacher,
                    splits,
                    unlabeled=unlabeled,
                    out=out / RUNS / name,
                    settings=own,
                    lesson_of=LESSONS[arm],
                    reporter=reporter,
                )
                finished.add(name, key)
            arms.setdefault(arm, []).append(_measured(bundle, seed, measured, folder=f"{RUNS}/{name}"))
    return arms


class _Finished:
    """Which runs are finished, and from what: one small file, replaced after each run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys: dict[str, Any] = {}
        try:
            found = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
            self._keys = found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            pass  # none yet, or not readable: the runs are repeated

    def find(self, name: str, key: str) -> Bundle | None:
        """Return the bundle of a finished run with this key, if it is still intact."""
        if self._keys.get(name) != key:
            return None
        try:
            return Bundle.open(self._folder / name)
        except BundleError:
            return None

    def add(self, name: str, key: str) -> None:
        """Remember that a run is finished."""
        self._keys[name] = key
        write_atomically(self._folder / FINISHED, json.dumps(self._keys, indent=2, sort_keys=True) + "\n")


def _measured(bundle: Bundle, seed: int, data: Dataset, *, folder: str) -> Run:
    return Run(
        seed=seed,
        folder=folder,
        epochs=len(bundle.manifest.history),
        validation_macro_f1=bundle.manifest.quality["pytorch"]["macro_f1"],
        logits=load_bundle(bundle).predict_logits(data.texts),
    )


def _keep(chosen: Bundle, out: Path) -> None:
    """Copy the chosen bundle to `out`, unless it is there already, perhaps with graphs that were exported since."""
    try:
        there = Bundle.open(out)
    except BundleError:
        there = None
    weights = chosen.manifest.files[WEIGHTS]
    if there is not None and there.manifest.files.get(WEIGHTS) == weights and there.manifest.lineage == chosen.manifest.lineage:
        return
    with new_bundle_folder(out) as staged:
        for name in chosen.manifest.files:
            shutil.copy2(chosen.file(name), staged / name)
        seal_new_bundle(out, staged, chosen.manifest.model_copy(update={"files": {}}))
