"""How the runs of the `transfer` scenario are trained: settings only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from distill.settings import DistillSettings
from distill.teacher_settings import TeacherSettings


def few_settings(shots: int, *, seed: int = 0) -> TeacherSettings:
    """How a cell with few labels is trained, whatever it begins with: a fifth of the labels choose the epoch.

    Args:
        shots: Labels a class; with under 100 there are more epochs, as an epoch has only a step or a few.
        seed: Of the run.
    """
    epochs = min(20, max(5, 250 // shots))
    return TeacherSettings(shots=shots, epochs=epochs, batch_size=16, learning_rate=1e-4, patience=epochs, seed=seed)


CHOICE_TEXTS: Final = 500
CHOICE: Final = TeacherSettings(epochs=2, batch_size=16, learning_rate=5e-5)
"""How a candidate is really fine-tuned, to see whether its rank was right."""


@dataclass(frozen=True)
class UnlabelledRecipe:
    """How a student of a domain without labels learns, beside the texts that the other domains' teachers label.

    Attributes:
        settings: Of the student.
        sources: How many of the other domains' labelled texts are learnt too.
        texts_of_each: Labelled texts of each of them, at most.
    """

    settings: DistillSettings
    sources: int
    texts_of_each: int


_STUDENT = DistillSettings(
    num_layers=3, max_length=64, soft_weight=1.0, augment=2, augment_from="unlabeled", epochs=2, learning_rate=1e-4
)
UNLABELLED: Final = {
    "texts_of_one_source": UnlabelledRecipe(_STUDENT, sources=1, texts_of_each=1000),
    "texts_and_labels_of_every_source": UnlabelledRecipe(
        _STUDENT.model_copy(update={"soft_weight": 0.9, "epochs": 3}), sources=3, texts_of_each=2500
    ),
}
LANGUAGE_TEXTS: Final = 2000
"""Chinese reviews that the target language is learnt from, with their labels."""

LANGUAGE_VOCABULARY: Final = 8000
OVER_FROZEN_LAYERS: Final = TeacherSettings(
    new_vocabulary=LANGUAGE_VOCABULARY,
    freeze_body=True,
    epochs=3,
    learning_rate=1e-3,
    max_length=48,
    patience=3,
)
ADAPTED_TEXTS: Final = 8000
ADAPTED_FIRST: Final = OVER_FROZEN_LAYERS.model_copy(update={"adapt_learning_rate": 2e-3})
WITH_ALL_LAYERS: Final = TeacherSettings(epochs=1, learning_rate=1e-4, max_length=48)
"""How the layers then learn too, in the vocabulary that the bundle has by now."""

LANGUAGE_FROM_SCRATCH: Final = OVER_FROZEN_LAYERS.model_copy(
    update={"freeze_body": False, "learning_rate": 1e-4, "epochs": 4, "patience": 4}
)
"""The same vocabulary with every weight drawn anew, and as many epochs as the two above together."""
