"""The steps from a teacher, or from another pretrained model, to a student, in order.

Each step is a function from one classifier to a new one, in the other files of this package.
"""

from __future__ import annotations

from collections.abc import Sequence

from distill.classifier import Classifier
from distill.data.dataset import JoinedTexts
from distill.errors import SettingsError
from distill.models.devices import chosen_device, on_device
from distill.models.loading import load_pretrained
from distill.models.static_network import MODEL_TYPE as STATIC
from distill.models.torch_classifier import TorchClassifier
from distill.settings import DistillSettings, StudentSettings
from distill.students.embedding import factorise_embedding, look_at_neighbours
from distill.students.layers import DEFAULT_NUM_LAYERS, chosen_layers, keep_layers, trim_positions
from distill.students.static_student import build_static
from distill.students.vocabulary import trim_vocabulary
from distill.students.width import narrow_feed_forward, narrowed
from distill.texts import TextInput


def build_student(
    teacher: TorchClassifier,
    settings: StudentSettings,
    *,
    labelled: Sequence[TextInput] = (),
    unlabeled: Sequence[TextInput] = (),
    whole: bool = False,
    seed: int = 0,
) -> TorchClassifier:
    """Return a new classifier made of the weights of a teacher or another model, which is not changed.

    Args:
        teacher: The source of the weights. The `max_length` of its tokenizer becomes the student's, and bounds its position
            table.
        settings: What to keep.
        labelled: Texts with labels that the student will learn from. Steps that choose what to keep choose on these texts;
            no other step reads them.
        unlabeled: Texts without labels, for the same steps.
        whole: Keep all layers if the settings give no number of layers.
        seed: For weights that the teacher does not have; only a static student has such weights.

    Raises:
        SettingsError: The teacher lacks what the settings ask for, or its family is not supported.
    """
    if teacher.model.config.model_type == STATIC:
        raise SettingsError("a student is made of its teacher's layers, and a static teacher has none; use another teacher")
    texts = JoinedTexts(labelled, unlabeled)
    student = teacher
    if settings.kind == "encoder":
        num_layers = teacher.model.config.num_hidden_layers
        layers = chosen_layers(settings, num_layers, default=num_layers if whole else DEFAULT_NUM_LAYERS)
        student = keep_layers(student, layers)
    if settings.hidden_size is not None:
        student = narrowed(student, settings.hidden_size, texts)
    student = trim_positions(student)
    if settings.intermediate_size is not None:
        student = narrow_feed_forward(student, settings.intermediate_size, texts=texts)
    if settings.vocabulary_size is not None:
        student = trim_vocabulary(
            student,
            settings.vocabulary_size,
            texts={"labelled": labelled, "unlabeled": unlabeled, "all": texts}[settings.vocabulary_from],
            characters=settings.vocabulary_characters,
        )
    if settings.embedding_size is not None:
        student = factorise_embedding(student, settings.embedding_size, texts=texts)
    if settings.embedding_window > 1:
        student = look_at_neighbours(student)
    return build_static(student, settings, seed=seed) if settings.kind == "static" else student


def load_student(source: str, settings: DistillSettings, *, teacher: Classifier) -> TorchClassifier:
    """Return a pretrained model that will learn from the teacher, with a head for the teacher's labels.

    A head of the checkpoint with the same number of labels is kept, as is every other weight.

    Args:
        source: A folder, a bundle, a hub id, `builtin:minilm` or `builtin:mpnet`.
        settings: Device, seed of a new head, and `max_length`, whose default is the teacher's.
        teacher: Supplies the labels, and `max_length` if it is a PyTorch classifier.

    Raises:
        SettingsError: Neither settings nor teacher give a `max_length`, or the model has fewer positions.
        BundleError: No model can be loaded from the source.
    """
    inherited = teacher.tokenizer.max_length if isinstance(teacher, TorchClassifier) else None
    max_length = settings.max_length or inherited
    if max_length is None:
        raise SettingsError("this teacher has no max_length for its student to inherit; set it with --max-length")
    student = load_pretrained(
        source, labels=teacher.labels, max_length=max_length, seed=settings.seed, problem_type=teacher.problem_type
    )
    on_device(student.model, chosen_device(settings.device))
    return student
