"""What is named as a teacher: a bundle, a Hugging Face classifier to adopt, answers of a language model, or an encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from distill.asking.teaching import is_answers, labels_of_answers, open_answers, teacher_of
from distill.bundle import MANIFEST, Bundle
from distill.data import Dataset
from distill.errors import SettingsError
from distill.models.fine_tuned import config_of, has_head
from distill.models.loading import HUB
from distill.models.packaged import FOLDER_OF
from distill.progress import Reporter
from distill.settings import BUILTIN_MINILM
from distill.teachers.adopting import adopt, labels_to_read
from distill.teachers.recorded import RecordedLogits


def _fine_tuned(name: str | Path) -> str | None:
    """Return a folder or `hub:ID` to adopt; None if it does not have the head of a classifier and is to be fine-tuned."""
    source = str(name)
    if not Path(name).is_dir() and not source.startswith(HUB):
        if _looks_like_a_path(name) or source in FOLDER_OF:
            return None
        source = f"{HUB}{name}"
    try:
        return source if has_head(config_of(source)) else None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        return None  # whoever loads it says what is wrong with it


def labels_of_named(names: Sequence[str | Path]) -> tuple[str, ...]:
    """Return the labels, in order, that data for these teachers must have; none if the data decides them.

    Raises:
        SettingsError: Two teachers have different labels.
        BundleError: A bundle is damaged.
    """
    found = {str(name): _labels_of(name) for name in names}
    known = {name: labels for name, labels in found.items() if labels}
    if len(set(known.values())) > 1:
        raise SettingsError(f"the teachers have different labels: {'; '.join(f'{k}: {list(v)}' for k, v in known.items())}")
    return next(iter(known.values()), ())


def _labels_of(name: str | Path) -> tuple[str, ...]:
    if is_answers(name):
        return labels_of_answers(name)
    if _is_bundle(name):
        return Bundle.open(name).labels
    source = _fine_tuned(name)
    return labels_to_read(source) if source else ()


def classifier_named(name: str | Path, *, labelled: Dataset, reporter: Reporter) -> Bundle | RecordedLogits | None:
    """Return the bundle of a name, adopted now if it is a fine-tuned classifier; None if it is an encoder to fine-tune.

    Args:
        name: A folder, a hub id (`hub:ID` or `ID`), `builtin:minilm` or `answers:FOLDER`.
        labelled: Texts that an adopted classifier is judged on.
        reporter: Told what was adopted.

    Raises:
        BundleError: A damaged bundle or checkpoint, or a model that the hub does not have.
        TeacherError: It is no better on the labelled texts than answers that ignore the text, or its labels are swapped.
    """
    if is_answers(name):
        return teacher_of(open_answers(name))
    if _is_bundle(name):
        return Bundle.open(name)
    if source := _fine_tuned(name):
        return adopt(source, labelled=labelled, reporter=reporter)
    if _looks_like_a_path(name) and not Path(name).is_dir():
        raise SettingsError(
            f"--teacher {name} does not exist; name a folder, hub:ID, or {BUILTIN_MINILM}, which is fine-tuned on your texts"
        )
    return None


def _is_bundle(name: str | Path) -> bool:
    return (Path(name) / MANIFEST).is_file()


def _looks_like_a_path(name: str | Path) -> bool:
    return isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")
