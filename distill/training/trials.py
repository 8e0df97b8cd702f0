"""The same student several times: over seeds, and beside a control that learns without the teacher's answers.

    out/                        the chosen student's bundle, and report.json
    out/runs/student-seed-0/    each run's own bundle
    out/runs/control-seed-0/
    out/runs/finished.json      what each finished run was made from, so that it is not repeated

Trains through `fit_student` and compares through `distill.evaluation.proof`; decides nothing else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distill.bundle import WEIGHTS, Bundle, new_bundle_folder, seal_new_bundle
from distill.data import Dataset, fingerprint
from distill.errors import BundleError
from distill.evaluation.proof import ARMS, ArmName, ProofReport, Run, prove
from distill.models.loading import load_bundle
from distill.progress import Reporter, SilentReporter
from distill.settings import DistillSettings, TrialSettings
from distill.storage import require_writable, write_atomically
from distill.teachers.scored import ScoredTable
from distill.teachers.teacher import AnyTeacher, open_teacher
from distill.training.distillation import fit_student
from distill.training.processes import open_accelerator
from distill.training.shared_files import logits_together, shared_files

RUNS = "runs"
FINISHED = "finished.json"
REPORT = "report.json"
FURTHER = ".unlabeled"


def run_trials(
    teacher: AnyTeacher | Sequence[AnyTeacher],
    *,
    train: Dataset,
    validation: Dataset,
    out: Path | str,
    unlabeled: Iterable[str] = (),
    scored: Sequence[Path | str] = (),
    test: Dataset | None = None,
    settings: DistillSettings | None = None,
    trials: TrialSettings,
    reporter: Reporter | None = None,
) -> tuple[Bundle, ProofReport]:
    """Teach a student once for each seed, with a control beside it if wanted, and report what holds.

    A run that is finished is taken as it is when the command is repeated; an interrupted one goes on.

    Args:
        teacher: As for `fit_student`.
        train: Texts to learn from.
        validation: Texts that choose epochs, and the seed whose student is kept in `out`.
        out: Folder of the kept student, the report and, below `runs`, every bundle.
        unlabeled: Further texts for the student; the control gets as many steps on the labelled ones instead.
        scored: As for `fit_student`.
        test: Texts the arms are compared on; without them the validation texts, which is said in the report.
        settings: Settings of the student; the seeds start at its own.
        trials: How many seeds, and whether there is a control.
        reporter: Told of progress.

    Returns:
        The kept student, and the report, which also stands in `out`.

    Raises:
        PotstillError: Any that `fit_student` raises.
    """
    settings = settings or DistillSettings()
    reporter = reporter or SilentReporter()
    out = Path(out)
    require_writable(out / RUNS)
    opened = open_teacher(teacher, device=settings.device)
    measured = validation if test is None else test
    finished = _Finished(out / RUNS)
    arms: dict[ArmName, list[Run]] = {}
    with shared_files(out / RUNS / FURTHER, open_accelerator(settings.device)) as files:
        further = files.texts("texts", unlabeled)  # read once, learnt from in every run
        said = [
            opened.digest(),
            train.fingerprint(),
            validation.fingerprint(),
            test and test.fingerprint(),
            fingerprint(further),
        ]
        said += [ScoredTable.open(Path(folder)).digest for folder in scored]
        for arm in ARMS if trials.control else ARMS[:1]:
            for seed in range(settings.seed, settings.seed + trials.seeds):
                own = settings.model_copy(update={"seed": seed})
                name = f"{arm}-seed-{seed}"
                key = hashlib.sha256(json.dumps([*said, own.model_dump(mode="json"), arm]).encode()).hexdigest()
                bundle = finished.find(name, key)
                if bundle is None:
                    reporter.say(f"{arm}, seed {seed}")
                    bundle = fit_student(
                        teacher,
                        train=train,
                        validation=validation,
                        unlabeled=further,
                        scored=scored,
                        test=test,
                        out=out / RUNS / name,
                        settings=own,
                        control=arm == "control",
                        reporter=reporter,
                    )
                    finished.add(name, key)
                else:
                    reporter.say(f"{arm}, seed {seed}: already done")
                arms.setdefault(arm, []).append(_asked(bundle, seed, measured, folder=f"{RUNS}/{name}"))
        best = max(arms["student"], key=lambda run: run.validation_macro_f1)  # the first of equals
        report = prove(
            measured,
            split="validation" if test is None else "test",
            teacher=logits_together(opened.asked, measured.texts, files=files, name="measured", reporter=reporter).logits,
            arms=arms,
            chosen_seed=best.seed,
        )
        files.made(lambda: _keep(Bundle.open(out / best.folder), out))
        files.made(lambda: write_atomically(out / REPORT, json.dumps(report.to_dict(), indent=2) + "\n"))
    return Bundle.open(out), report


class _Finished:
    """Which runs are finished, and what from: one small file, replaced after each run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys: dict[str, Any] = {}
        try:
            found = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
            self._keys = found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            pass  # none yet, or not readable: the runs are made again

    def find(self, name: str, key: str) -> Bundle | None:
        """Return the bundle of a finished run of this very kind, if it is still whole."""
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


def _asked(bundle: Bundle, seed: int, data: Dataset, *, folder: str) -> Run:
    return Run(
        seed=seed,
        folder=folder,
        epochs=len(bundle.manifest.history),
        validation_macro_f1=bundle.manifest.quality["pytorch"]["macro_f1"],
        logits=load_bundle(bundle).predict_logits(data.texts),
    )


def _keep(chosen: Bundle, out: Path) -> None:
    """Copy the chosen bundle to `out`, unless it already stands there, perhaps with graphs that were exported since."""
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
        seal_new_bundle(out, staged, chosen.manifest)
