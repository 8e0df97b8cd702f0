"""potstill's first stage: data, teachers, students, and the contracts every stage shares.

Names are imported on first use, so that `import distill` costs nothing and never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.bundle import Bundle as Bundle
    from distill.classifier import Classifier as Classifier
    from distill.classifier import predict as predict
    from distill.data import Dataset as Dataset
    from distill.data import load_splits as load_splits
    from distill.errors import PotstillError as PotstillError
    from distill.estimator import DistilledClassifier as DistilledClassifier
    from distill.settings import DataSettings as DataSettings
    from distill.settings import DistillSettings as DistillSettings
    from distill.settings import TeacherSettings as TeacherSettings
    from distill.settings import TrialSettings as TrialSettings
    from distill.training.distillation import fit_student as fit_student
    from distill.training.fine_tuning import fit_teacher as fit_teacher
    from distill.training.trials import run_trials as run_trials

_HOMES = {
    "Bundle": "distill.bundle",
    "Classifier": "distill.classifier",
    "DataSettings": "distill.settings",
    "Dataset": "distill.data",
    "DistillSettings": "distill.settings",
    "DistilledClassifier": "distill.estimator",
    "PotstillError": "distill.errors",
    "TeacherSettings": "distill.settings",
    "TrialSettings": "distill.settings",
    "fit_student": "distill.training.distillation",
    "fit_teacher": "distill.training.distillation",
    "load_splits": "distill.data",
    "predict": "distill.classifier",
    "run_trials": "distill.training.trials",
}

__all__ = [
    "Bundle",
    "Classifier",
    "DataSettings",
    "Dataset",
    "DistillSettings",
    "DistilledClassifier",
    "PotstillError",
    "TeacherSettings",
    "TrialSettings",
    "fit_student",
    "fit_teacher",
    "load_splits",
    "predict",
    "run_trials",
]


def __getattr__(name: str) -> object:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from distill.errors import requires

    with requires(f"distill.{name}"):
        return getattr(importlib.import_module(_HOMES[name]), name)
