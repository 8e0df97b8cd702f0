"""potstill's first stage: data, teachers, students, and the contracts every stage shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.lazy import importer_of

if TYPE_CHECKING:
    from distill.bundle import Bundle as Bundle
    from distill.classifier import Classifier as Classifier
    from distill.classifier import predict as predict
    from distill.data import Dataset as Dataset
    from distill.data import Splits as Splits
    from distill.data import load_splits as load_splits
    from distill.errors import PotstillError as PotstillError
    from distill.estimator import DistilledClassifier as DistilledClassifier
    from distill.evaluation.metrics import evaluate as evaluate
    from distill.evaluation.proof import ProofReport as ProofReport
    from distill.models.loading import load_bundle as load_bundle
    from distill.opening import open_or_adopt as open_or_adopt
    from distill.progress import LineReporter as LineReporter
    from distill.progress import Reporter as Reporter
    from distill.recipes import RECIPES as RECIPES
    from distill.recipes import Recipe as Recipe
    from distill.recipes import RecipeOptions as RecipeOptions
    from distill.settings import DataSettings as DataSettings
    from distill.settings import DistillSettings as DistillSettings
    from distill.settings import TrialSettings as TrialSettings
    from distill.teacher_settings import SelectSettings as SelectSettings
    from distill.teacher_settings import TeacherSettings as TeacherSettings
    from distill.teachers.adopting import adopt as adopt
    from distill.teachers.teacher import open_teacher as open_teacher
    from distill.teachers.teacher import with_scored as with_scored
    from distill.training.by_recipe import fit_by_recipe as fit_by_recipe
    from distill.training.distillation import fit_student as fit_student
    from distill.training.fine_tuning import fit_teacher as fit_teacher
    from distill.training.origin import Origin as Origin
    from distill.training.origin import SourceTask as SourceTask
    from distill.training.trials import run_trials as run_trials
    from distill.transfer.select import Selection as Selection
    from distill.transfer.select import select as select

_PUBLIC = {
    "bundle": ("Bundle",),
    "classifier": ("Classifier", "predict"),
    "data": ("Dataset", "Splits", "load_splits"),
    "errors": ("PotstillError",),
    "estimator": ("DistilledClassifier",),
    "evaluation.metrics": ("evaluate",),
    "evaluation.proof": ("ProofReport",),
    "progress": ("LineReporter", "Reporter"),
    "models.loading": ("load_bundle",),
    "opening": ("open_or_adopt",),
    "recipes": ("RECIPES", "Recipe", "RecipeOptions"),
    "settings": ("DataSettings", "DistillSettings", "TrialSettings"),
    "teacher_settings": ("SelectSettings", "TeacherSettings"),
    "teachers.adopting": ("adopt",),
    "teachers.teacher": ("open_teacher", "with_scored"),
    "training.by_recipe": ("fit_by_recipe",),
    "training.distillation": ("fit_student",),
    "training.trials": ("run_trials",),
    "training.fine_tuning": ("fit_teacher",),
    "training.origin": ("Origin", "SourceTask"),
    "transfer.select": ("Selection", "select"),
}
__all__ = [name for names in _PUBLIC.values() for name in names]
__getattr__ = importer_of(__name__, _PUBLIC)
