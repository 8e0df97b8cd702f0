"""The int8 graphs of the students that were trained in full: calibrated, then written behind the gates, for each form."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.bundle import QUANTIZATION, Bundle, new_bundle_folder, seal_new_bundle
from distill.card import write_card
from distill.data import Dataset
from distill.errors import GateError
from distill.evaluation.metrics import macro_f1, retention
from distill.labels import Logits
from distill.models.loading import load_bundle
from distill.models.torch_classifier import write_model_files
from distill.progress import Reporter
from distill.training.finished import whole_bundle
from distill.training.sealing import quality_of
from distill.transfer.parameters import divide_logits
from export.fitting.choose import Validated
from export.fitting.scores import Scorer
from export.fitting.weighing import Form
from export.pipeline import export_bundle
from export.runtime.sessions import OnnxClassifier
from export.settings import ExportSettings


@dataclass(frozen=True)
class Exported:
    """Graphs by form, and for the forms that failed a gate, why."""

    bundles: Mapping[str, Bundle]
    failed: Mapping[str, str]


def calibrated(bundle: Bundle, *, folder: Path, scorer: Scorer, reporter: Reporter) -> Bundle:
    """Return a copy of a student, made now unless it is there, with its logits divided by what fits the validation texts.

    No answer changes, and what other students are made of it learns from the logits that it was trained with.
    """
    made = bundle.manifest
    if (kept := _copy_in(folder, bundle)) is not None:
        return kept
    student = load_bundle(bundle)
    logits = student.predict_logits(scorer.data.texts)
    temperature = scorer.temperature(logits)
    divide_logits(student.model, temperature)
    before, after = (
        quality_of(student, scorer.data, each, split="validation") for each in (logits, logits / np.float32(temperature))
    )
    reporter.say(
        f"calibration: {folder.name}'s logits are divided by {temperature:.2f}; calibration error on the validation texts "
        f"{before['expected_calibration_error']:.3f} before, {after['expected_calibration_error']:.3f} after"
    )
    quality = {**made.quality, "pytorch": {**made.quality["pytorch"], **after}}
    with new_bundle_folder(folder) as staged:
        write_model_files(student, staged)
        if QUANTIZATION in made.files:
            shutil.copy2(bundle.file(QUANTIZATION), staged / QUANTIZATION)
        changes = {"files": {}, "quality": quality, "calibration_temperature": temperature}
        return write_card(seal_new_bundle(folder, staged, made.model_copy(update=changes)))


def exported(
    students: Mapping[str, Bundle],
    forms: Sequence[Form],
    *,
    folder: Path,
    validation: Dataset,
    settings: ExportSettings,
    reporter: Reporter,
) -> Exported:
    """Write the graphs of each form of the students.

    Args:
        students: Bundles by recipe.
        forms: Forms to write; those of other recipes are left out.
        folder: Each form gets a bundle of its own in it.
        validation: Texts for the gates.
        settings: Budgets of the gates.
        reporter: Told of each step.
    """
    bundles, failed = {}, {}
    for form in forms:
        if form.recipe not in students:
            continue
        reporter.say(f"export: {form.name}")
        asked = settings.model_copy(update={"embeddings": form.tables})
        copy = copied(students[form.recipe], folder / form.name.replace("/", "-"), asked)
        try:
            made = (
                copy
                if _is_exported(copy, asked)
                else export_bundle(copy, validation=validation, settings=asked, reporter=reporter)
            )
        except GateError as exc:
            failed[form.name] = str(exc)
            reporter.say(f"export: {form.name} failed a gate: {exc}")
            continue
        found = str(made.manifest.quality["int8"]["form"])
        if f"{form.tables} tables" not in found:  # the ladder widened the tables: that is the other form
            failed[form.name] = f"with {form.tables} tables the int8 graph loses too much"
            continue
        bundles[form.name] = made
    return Exported(bundles, failed)


def validated(bundles: Mapping[str, Bundle], scorer: Scorer, *, of_teacher: Logits) -> dict[str, Validated]:
    """Return how good each int8 graph is on the validation texts.

    Args:
        bundles: By form.
        scorer: Scores on these texts by the metric of the run.
        of_teacher: The teacher's logits of these texts.
    """
    data, found = scorer.data, {}
    best = macro_f1(data.label_ids, of_teacher)
    for name, bundle in bundles.items():
        logits = OnnxClassifier.open(bundle, precision="int8", threads=1).predict_logits(data.texts)
        kept = retention(student_macro_f1=macro_f1(data.label_ids, logits), teacher_macro_f1=best)
        found[name] = Validated(scorer.figure(logits), scorer.distances(logits, of_teacher=of_teacher), kept)
    return found


def copied(bundle: Bundle, folder: Path, asked: ExportSettings | None = None) -> Bundle:
    """Copy a bundle into a folder, unless a copy of it, perhaps with graphs that were exported since, is there."""
    kept, made = _copy_in(folder, bundle), bundle.manifest
    same = kept is not None and kept.manifest.calibration_temperature == made.calibration_temperature
    if kept is not None and same and (asked is not None or kept.manifest.quality == made.quality):
        return kept
    with new_bundle_folder(folder) as staged:
        for name in made.files:
            shutil.copy2(bundle.file(name), staged / name)
        return seal_new_bundle(folder, staged, made.model_copy(update={"files": {}}))


def _copy_in(folder: Path, bundle: Bundle) -> Bundle | None:
    """Return the whole bundle of a folder if it is a copy of this one, perhaps calibrated or with graphs."""
    kept, made = whole_bundle(folder), bundle.manifest
    same = kept is not None and kept.manifest.lineage == made.lineage and kept.manifest.history == made.history
    return kept if same else None


def _is_exported(bundle: Bundle, asked: ExportSettings) -> bool:
    return "int8" in bundle.manifest.precisions and bundle.manifest.settings.get("export") == asked.model_dump(mode="json")
