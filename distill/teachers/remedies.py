"""Whether a new teacher is worth learning from, and what to change if it is not."""

from __future__ import annotations

import math

from distill.data import Dataset, limited
from distill.evaluation.floors import TfidfClassifier
from distill.evaluation.metrics import macro_f1
from distill.labels import Logits
from distill.teacher_settings import TeacherSettings
from distill.teachers.defaults import MAX_EPOCHS, MIN_UPDATES, DataShape
from distill.teachers.teacher import ROUNDING, floor_of

COMPARED_TEXTS = 20_000
"""Training texts of the TF-IDF classifier that a teacher is compared with, at most."""
MANY_CUT = 0.1
"""Share of truncated texts from which a longer max_length is advised first."""


def shortcoming(
    logits: Logits,
    validation: Dataset,
    *,
    train: Dataset,
    settings: TeacherSettings,
    shape: DataShape,
    other_method: str | None,
) -> str | None:
    """Return in words what a new teacher is not better than, and the remedy; None if it is better than both floors.

    The floors are an answer that ignores the text, and TF-IDF with logistic regression.

    Args:
        logits: Logits of the validation texts.
        validation: These texts.
        train: The training texts.
        settings: How the teacher was trained.
        shape: What the defaults were chosen from.
        other_method: Flags of the method that was not tried; None if both were.
    """
    label_ids = validation.label_ids
    own, floor = macro_f1(label_ids, logits), floor_of(logits=logits, label_ids=label_ids, num_labels=len(train.labels))
    if own <= floor + ROUNDING:
        found = f"no better than an answer that ignores the text (validation macro-F1 {own:.3f} against {floor:.3f})"
    elif (simple := _simple(train, validation)) >= own:
        found = f"no better than TF-IDF with logistic regression (validation macro-F1 {own:.3f} against {simple:.3f})"
    else:
        return None
    return f"the teacher is {found}; {remedy(settings, shape, other_method)}"


def _simple(train: Dataset, validation: Dataset) -> float:
    part = limited(train, COMPARED_TEXTS, seed=0)
    return macro_f1(validation.label_ids, TfidfClassifier(part).predict_logits(validation.texts))


def remedy(settings: TeacherSettings, shape: DataShape, other_method: str | None) -> str:
    """Return what to change first, of what the settings and the texts leave open."""
    cut = shape.share_cut(settings.max_length)
    if cut > MANY_CUT and settings.max_length < shape.max_length:
        return f"{cut:.0%} of its texts are truncated: use --max-length {shape.max_length}, or leave it out"
    if shape.is_unbalanced and settings.class_weights == "none":
        return "its labels are unbalanced: use --class-weights balanced, or leave it out"
    steps = settings.epochs * math.ceil(shape.num_texts / settings.batch_size)
    if settings.transfer == "parameters" and steps < MIN_UPDATES["standard"] and settings.epochs < MAX_EPOCHS:
        epochs = min(MAX_EPOCHS, math.ceil(settings.epochs * MIN_UPDATES["standard"] / steps))
        return f"it made {steps} steps: use --epochs {epochs}, or leave --epochs and --batch-size out"
    if settings.transfer == "parameters" and settings.learning_rate < 2e-5:
        return f"its learning rate is {settings.learning_rate:g}: use --learning-rate 5e-5"
    method = f"`potstill teacher {other_method}`, or " if other_method else ""
    return f"try {method}another model (`potstill select` ranks them), or label more texts and check their labels"
