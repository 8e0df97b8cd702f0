"""The steps from a teacher to a student, in order. Each is a pure function from one classifier to a new one."""

from __future__ import annotations

from collections.abc import Sequence

from distill.errors import SettingsError
from distill.settings import StudentSettings
from distill.training.models import TorchClassifier
from distill.training.static import MODEL_TYPE as STATIC
from distill.training.students.embedding import factorise_embedding, look_at_neighbours
from distill.training.students.feed_forward import narrow_feed_forward
from distill.training.students.layers import DEFAULT_NUM_LAYERS, chosen_layers, keep_layers
from distill.training.students.positions import trim_positions
from distill.training.students.static import build_static
from distill.training.students.vocabulary import trim_vocabulary
from distill.training.students.width import narrowed


def build_student(
    teacher: TorchClassifier,
    settings: StudentSettings,
    *,
    labelled: Sequence[str] = (),
    unlabeled: Sequence[str] = (),
    whole: bool = False,
    seed: int = 0,
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
        seed: Draws the weights that the teacher does not have; only a static student has such.

    Raises:
        SettingsError: The teacher lacks what is asked for, or its family names its weights in a way that is not known.
    """
    if teacher.model.config.model_type == STATIC:
        raise SettingsError("a student is made of its teacher's layers, and a static teacher has none; name another")
    transfer_set = {"labelled": labelled, "unlabeled": unlabeled, "all": (*labelled, *unlabeled)}
    student = teacher
    if settings.kind == "encoder":
        student = _with_fewer_layers(student, settings, whole=whole)
    if settings.hidden_size is not None:
        student = narrowed(student, settings.hidden_size, transfer_set["all"])
    student = trim_positions(student)
    if settings.intermediate_size is not None:
        student = narrow_feed_forward(student, settings.intermediate_size, texts=transfer_set["all"])
    if settings.vocabulary_size is not None:
        student = trim_vocabulary(
            student,
            settings.vocabulary_size,
            texts=transfer_set[settings.vocabulary_from],
            characters=settings.vocabulary_characters,
        )
    if settings.embedding_size is not None:
        student = factorise_embedding(student, settings.embedding_size, texts=transfer_set["all"])
    if settings.embedding_window > 1:
        student = look_at_neighbours(student)
    return build_static(student, settings, seed=seed) if settings.kind == "static" else student


def _with_fewer_layers(teacher: TorchClassifier, settings: StudentSettings, *, whole: bool) -> TorchClassifier:
    num_layers = teacher.model.config.num_hidden_layers
    default = num_layers if whole else DEFAULT_NUM_LAYERS
    return keep_layers(teacher, chosen_layers(settings, num_layers, default=default))
