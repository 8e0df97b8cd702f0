"""Trainings that are not repeated: the bundles of a folder, and a digest of what decided each.

folder/narrow-seed-0/    a bundle
folder/finished.json     the digest of each finished training, by the name of its bundle's folder
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from distill.bundle import MANIFEST, WEIGHTS, Bundle
from distill.data import Splits, fingerprint
from distill.errors import BundleError
from distill.progress import Reporter
from distill.settings import DistillSettings, TrainingSettings
from distill.storage import write_atomically
from distill.teachers.teacher import Teacher
from distill.texts import TextInput

FINISHED = "finished.json"
_NOT_DECIDING = {"track", "checkpoint_every_s"}


def trained_once(
    folder: Path,
    name: str,
    *,
    settings: TrainingSettings,
    decided_by: Sequence[object],
    train: Callable[..., Bundle],
    reporter: Reporter,
) -> Bundle:
    """Return the bundle `folder/name`, trained now unless it was trained before from the same inputs.

    Args:
        folder: Where the bundles are, and the file of digests.
        name: Of the bundle's folder.
        settings: Of the training.
        decided_by: Everything else that decides the weights, as JSON values.
        train: Trains the bundle; called with `out` and `settings`.
        reporter: Told if the bundle was there.
    """
    finished, key = folder / FINISHED, _key(settings, decided_by)
    done = whole_bundle(folder / name) if _keys(finished).get(name) == key else None
    if done is not None:
        reporter.say(f"{name}: already done")
        return done
    reporter.say(f"{name}: training")
    bundle = train(out=folder / name, settings=settings)
    write_atomically(finished, json.dumps({**_keys(finished), name: key}, indent=2, sort_keys=True) + "\n")
    return bundle


def inputs_of(teacher: Teacher, splits: Splits, unlabeled: Sequence[TextInput]) -> list[str | None]:
    """Return the digests of what every student of one teacher and one set of texts has in common."""
    datasets = (splits.train, splits.validation, splits.test)
    return [teacher.digest(), *(None if data is None else data.fingerprint() for data in datasets), fingerprint(unlabeled)]


def whole_bundle(folder: Path) -> Bundle | None:
    """Return the bundle of a folder, or None if there is none or it is damaged."""
    try:
        return Bundle.open(folder)
    except BundleError:
        return None


def _keys(finished: Path) -> dict[str, str]:
    try:
        return dict(json.loads(finished.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none yet, or not readable: the trainings are repeated
        return {}


def _key(settings: TrainingSettings, decided_by: Sequence[object]) -> str:
    values = settings.model_dump(mode="json", exclude=_NOT_DECIDING)
    if isinstance(settings, DistillSettings) and settings.student is not None and (Path(settings.student) / MANIFEST).is_file():
        values["student"] = Bundle.open(settings.student).manifest.files[WEIGHTS].sha256  # what it is, not where
    return hashlib.sha256(json.dumps([values, *decided_by]).encode()).hexdigest()
