"""How a teacher is fine-tuned when nobody says: values and pure functions from the texts to the settings.

A setting that was given is kept; only those left out are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.recipes import Effort, TextFacts, max_length_for
from distill.teacher_settings import TeacherSettings

MIN_UPDATES: Final[Mapping[Effort, int]] = {"quick": 250, "standard": 500, "thorough": 500}
"""Fewer steps leave a new head near its start; epochs are added until there are as many."""
MIN_EPOCHS: Final[Mapping[Effort, int]] = {"quick": 2, "standard": 3, "thorough": 3}
MAX_EPOCHS: Final = 20
MAX_VIEWS: Final = 500_000
"""Texts seen, counting a text once per epoch, from which epochs are taken away, down to one."""
SMALL_BATCH: Final = 16
BATCH_TEXTS: Final = 4000
"""Training texts below which the batch is `SMALL_BATCH`."""
RARE: Final = 0.05
"""Share of the texts below which a label is rare."""
UNBALANCED: Final = 4.0
"""Texts of the most frequent label per text of the rarest, from which classes are weighted."""
MIN_RARE_TEXTS: Final = 8
"""A label with fewer texts does not turn on class weights: each of its texts would outweigh whole batches."""
FEW_TEXTS: Final = 1500
"""Training texts below which a head on features is tried, too."""

_LEAVE_THE_METHOD_OPEN: Final = frozenset(
    {
        "batch_size",
        "calibrate",
        "checkpoint_every_s",
        "class_weights",
        "device",
        "effort",
        "max_length",
        "mixed_precision",
        "patience",
        "pooling",
        "seed",
        "shots",
        "track",
    }
)
"""Settings that suit both methods; any other asks for one of the two."""


@dataclass(frozen=True)
class DataShape:
    """What the settings of a teacher depend on.

    Attributes:
        label_counts: Training texts of each label.
        token_lengths: Tokens of a sample of the training texts, not truncated.
        max_length: Maximum tokens that the model reads.
        num_texts: Training texts.
        several_labels: Whether a text may have several labels.
    """

    label_counts: tuple[int, ...]
    token_lengths: Sequence[int] | NDArray[np.int64]
    max_length: int
    num_texts: int
    several_labels: bool = False

    def share_cut(self, max_length: int) -> float:
        """Return the share of the texts that are longer."""
        return float((np.asarray(self.token_lengths) > max_length).mean())

    def tokens(self, max_length: int) -> float:
        """Return the mean number of tokens of a text, truncated at a length."""
        return float(np.minimum(self.token_lengths, max_length).mean())

    @property
    def is_unbalanced(self) -> bool:
        """Whether a label is so rare that the loss should weight it up."""
        present = [count for count in self.label_counts if count]
        if self.several_labels or len(present) < 2 or min(present) < MIN_RARE_TEXTS:
            return False
        return min(present) < RARE * sum(present) or max(present) > UNBALANCED * min(present)


def adapted(settings: TeacherSettings, shape: DataShape) -> TeacherSettings:
    """Return the settings with those that nobody set chosen for these texts."""
    given, texts = settings.model_fields_set, shape.num_texts
    batch_size = SMALL_BATCH if texts < BATCH_TEXTS else type(settings).model_fields["batch_size"].default
    batch_size = settings.batch_size if "batch_size" in given else batch_size
    wanted = max(MIN_EPOCHS[settings.effort], math.ceil(MIN_UPDATES[settings.effort] / math.ceil(texts / batch_size)))
    epochs = settings.epochs if "epochs" in given else max(1, min(wanted, MAX_EPOCHS, MAX_VIEWS // texts))
    facts = TextFacts(num_labelled=texts, num_unlabelled=0, token_lengths=shape.token_lengths, max_length=shape.max_length)
    # No shorter than usual: padding ends with the longest text of a batch, so a limit above the texts costs nothing.
    length = min(shape.max_length, max(max_length_for(facts), type(settings).model_fields["max_length"].default))
    chosen: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "patience": max(2, math.ceil(epochs / 4)),
        "class_weights": "balanced" if shape.is_unbalanced else "none",
        "max_length": length,
    }
    return settings.model_copy(update={name: value for name, value in chosen.items() if name not in given})


def tries_both_methods(settings: TeacherSettings, shape: DataShape) -> bool:
    """Return whether a head on features competes with fine-tuning: few texts, and no setting that asks for one of the two."""
    return shape.num_texts < FEW_TEXTS and settings.model_fields_set <= _LEAVE_THE_METHOD_OPEN


def chosen_words(given: TeacherSettings, settings: TeacherSettings, shape: DataShape) -> tuple[str, ...]:
    """Return what was chosen and why, a line each.

    Args:
        given: Settings as the user gave them.
        settings: The same, adapted.
        shape: What they were adapted to.
    """
    steps = settings.epochs * math.ceil(shape.num_texts / settings.batch_size)
    lines = []
    if not {"epochs", "batch_size"} <= given.model_fields_set and settings.transfer == "parameters":
        lines.append(
            f"{settings.epochs} epochs in batches of {settings.batch_size} for {shape.num_texts:,} texts: at most {steps:,} "
            f"steps, fewer if {settings.patience} epochs bring no better macro-F1"
        )
    if "class_weights" not in given.model_fields_set and settings.class_weights == "balanced":
        present = [count for count in shape.label_counts if count]
        lines.append(f"class_weights balanced: labels have from {min(present):,} to {max(present):,} texts")
    usual = type(given).model_fields["max_length"].default
    if "max_length" not in given.model_fields_set and settings.max_length > usual:
        times = shape.tokens(settings.max_length) / shape.tokens(usual)
        lines.append(
            f"max_length {settings.max_length} truncates {shape.share_cut(settings.max_length):.1%} of the texts; {usual} "
            f"would truncate {shape.share_cut(usual):.1%} and read {1 / times:.0%} of the tokens"
        )
    return tuple(lines)
