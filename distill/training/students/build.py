"""The steps from a teacher to a student, in order. Each is a pure function from one classifier to a new one."""

from __future__ import annotations

from collections.abc import Sequence

from distill.settings import StudentSettings
from distill.training.models import TorchClassifier
from distill.training.students.embedding import factorise_embedding
from distill.training.students.feed_forward import narrow_feed_forward
from distill.training.students.layers import DEFAULT_NUM_LAYERS, chosen_layers, keep_layers
from distill.training.students.positions import trim_positions
from distill.training.students.vocabulary import trim_vocabulary
from distill.training.students.width import narrowed


def build_student(
    teacher: TorchClassifier,
    settings: StudentSettings,
    *,
    labelled: Sequence[str] = (),
    unlabeled: Sequence[str] = (),
    whole: bool = False,
) -> TorchClassifier:
    """Return a new classifier made of the weights of a teacher, or of another model; that one stays as it is.

    Args:
        teacher: Whose weights they are. The `max_length` of its tokenizer becomes the student's, and bounds its table
            of positions.
        settings: What is kept.
        labelled: Texts with labels that the student will learn from. What to keep is chosen on them where the settings
            ask for a choice.
        unlabeled: Texts without.
        whole: Keep all layers where the settings name none.

    Raises:
        SettingsError: The teacher lacks what is asked for, or its family names its weights in a way that is not known.
    """
    transfer_set = {"labelled": labelled, "unlabeled": unlabeled, "all": (*labelled, *unlabeled)}
    num_layers = teacher.model.config.num_hidden_layers
    default = num_layers if whole else DEFAULT_NUM_LAYERS
    student = keep_layers(teacher, chosen_layers(settings, num_layers, default=default))
    if settings.hidden_size is not None:
        student = narrowed(student, settings.hidden_size, transfer_set["all"])
    student = trim_positions(student)
    if settings.intermediate_size is not None:
        student = narrow_feed_forward(student, settings.intermediate_size, texts=transfer_set["all"])
    if settings.vocabulary_size is not None:
        student = trim_vocabulary(student, settings.vocabulary_size, texts=transfer_set[settings.vocabulary_from])
    if settings.embedding_size is not None:
        student = factorise_embedding(student, settings.embedding_size, texts=transfer_set["all"])
    return student
