"""Distilling over several seeds and beside a control, and reporting what can be concluded.

The control learns from the labels alone. It is trained by the same function, with another lesson, and
`distill.evaluation.proof` compares the two. Several runs write:

    out/                        the bundle of the chosen student, and report.json
    out/runs/student-seed-0/    the bundle of each run
    out/runs/control-seed-0/
    out/runs/finished.json      a digest of the inputs of each finished run, so that it is not repeated
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from distill.bundle import WEIGHTS, Bundle, new_bundle_folder, seal_new_bundle
from distill.data import Dataset, Splits
from distill.evaluation.proof import ARMS, ArmName, ProofReport, Run, prove
from distill.models.loading import load_bundle
from distill.progress import Reporter, SilentReporter
from distill.recipes import Recipe, RecipeOptions, Stage, with_seed
from distill.settings import DistillSettings, TrialSettings
from distill.storage import require_writable, write_atomically
from distill.teachers.teacher import AnyTeacher, Teacher, open_teacher
from distill.texts import TextInput
from distill.training.by_recipe import assistants_of, recipe_stages, train_stages
from distill.training.finished import inputs_of, trained_once, whole_bundle
from distill.training.lesson import Prepared, control_lesson, distillation_lesson
from distill.training.loop import Lesson
from distill.training.processes import logits_together, open_accelerator, shared_files

RUNS = "runs"
LESSONS: dict[ArmName, Callable[[Prepared], Lesson]] = {"student": distillation_lesson, "control": control_lesson}


def run_trials(
    teacher: AnyTeacher | Sequence[AnyTeacher] | Teacher,
    splits: Splits,
    *,
    out: Path | str,
    unlabeled: Iterable[TextInput] = (),
    settings: DistillSettings | RecipeOptions | None = None,
    recipe: Recipe | None = None,
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
        settings: Settings of the student, or with a recipe its options; the seeds start at theirs.
        recipe: Train by recipe. Each seed has its own assistants; those of a control learn from the labels alone, too.
        trials: How many seeds, and whether there is a control.
        reporter: Told of progress.

    Returns:
        The kept student, and the report, which is also written to `out`.

    Raises:
        PotstillError: Any that `fit_student` raises.
    """
    reporter, out = reporter or SilentReporter(), Path(out)
    options = settings if isinstance(settings, RecipeOptions) else RecipeOptions()
    plain = settings if isinstance(settings, DistillSettings) else DistillSettings()
    device = plain.device if recipe is None else options.device
    require_writable(out / RUNS)
    opened = open_teacher(teacher, device=device)
    measured = splits.validation if splits.test is None else splits.test
    with open_accelerator(device) as accelerator, shared_files(out / RUNS / ".unlabeled", accelerator) as files:
        further = files.texts("texts", unlabeled)  # read once, learnt from in every run
        stages = (
            (Stage("student", plain),)
            if recipe is None
            else recipe_stages(recipe, opened, splits, len(further), options, reporter)
        )
        train = partial(train_stages, teacher=opened, splits=splits, unlabeled=further, assistants=assistants_of(out))
        inputs = inputs_of(opened, splits, further)
        train_one = partial(_trained, train=train, decided_by=inputs, measured=measured, out=out, reporter=reporter)
        first = stages[-1].settings.seed
        by_seed = [with_seed(stages, seed) for seed in range(first, first + trials.seeds)]
        arms = {arm: [train_one(arm, own) for own in by_seed] for arm in (ARMS if trials.control else ARMS[:1])}
        best = max(arms["student"], key=lambda run: run.validation_macro_f1)  # the first of equals
        asked = logits_together(opened.asked, measured.texts, files=files, name="measured", reporter=reporter).logits
        split: Literal["test", "validation"] = "validation" if splits.test is None else "test"
        report = prove(measured, split=split, teacher=asked, arms=arms, chosen_seed=best.seed)
        files.made(lambda: _keep(Bundle.open(out / best.folder), out))
        files.made(lambda: write_atomically(out / "report.json", json.dumps(report.to_dict(), indent=2) + "\n"))
    return Bundle.open(out), report


def _trained(
    arm: ArmName,
    stages: Sequence[Stage],
    *,
    train: Callable[..., Bundle],
    decided_by: Sequence[object],
    measured: Dataset,
    out: Path,
    reporter: Reporter,
) -> Run:
    """Train one arm with one seed, unless that run is finished, and label the texts that measure it."""
    seed = stages[-1].settings.seed
    name = f"{arm}-seed-{seed}"
    bundle = trained_once(
        out / RUNS,
        name,
        settings=stages[-1].settings,
        decided_by=[*decided_by, *(stage.settings.model_dump(mode="json") for stage in stages[:-1]), arm],
        train=lambda out, settings: train(stages, out=out, lesson_of=LESSONS[arm], reporter=reporter),  # noqa: ARG005
        reporter=reporter,
    )
    return Run(
        seed=seed,
        folder=f"{RUNS}/{name}",
        epochs=len(bundle.manifest.history),
        validation_macro_f1=bundle.manifest.quality["pytorch"]["macro_f1"],
        logits=load_bundle(bundle).predict_logits(measured.texts),
    )


def _keep(chosen: Bundle, out: Path) -> None:
    """Copy the chosen bundle to `out`, unless it is there already, perhaps with graphs that were exported since."""
    kept, made = whole_bundle(out), chosen.manifest
    if kept and kept.manifest.files.get(WEIGHTS) == made.files[WEIGHTS] and kept.manifest.lineage == made.lineage:
        return
    with new_bundle_folder(out) as staged:
        for name in made.files:
            shutil.copy2(chosen.file(name), staged / name)
        seal_new_bundle(out, staged, made.model_copy(update={"files": {}}))
