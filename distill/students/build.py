"""The steps from a teacher to a student, in order. Each is a pure function from one classifier to a new one."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

from distill.classifier import Classifier
from distill.errors import SettingsError
from distill.models.devices import chosen_device, on_device
from distill.models.loading import load_pretrained, rebuilt
from distill.models.static_network import MODEL_TYPE as STATIC
from distill.models.torch_classifier import TorchClassifier, position_offset
from distill.settings import DistillSettings, StudentSettings
from distill.students.embedding import factorise_embedding, look_at_neighbours
from distill.students.feed_forward import narrow_feed_forward
from distill.students.static_student import build_static
from distill.students.vocabulary import trim_vocabulary
from distill.students.width import narrowed


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


DEFAULT_NUM_LAYERS = 3
"""Layers of a student when its settings name none."""

# Where the encoder's layers stand, by the names the model families give them.
_LAYER_NAME = re.compile(r"^(?P<before>.*(?:encoder\.layer|transformer\.layer)\.)(?P<number>\d+)(?P<after>\..*)$")


def chosen_layers(settings: StudentSettings, num_teacher_layers: int, *, default: int = DEFAULT_NUM_LAYERS) -> tuple[int, ...]:
    """Return which teacher layers (from 0) the student keeps, in order: `default` of them if the settings say nothing.

    The rule "spread" takes the last layer of each of `num_layers` equal segments: 1, 3, 5 of six.

    Raises:
        SettingsError: The teacher does not have them.
    """
    if settings.layers:
        beyond = [layer for layer in settings.layers if layer >= num_teacher_layers]
        if beyond:
            raise SettingsError(f"layers names {beyond[0]}, but the teacher has layers 0 to {num_teacher_layers - 1}")
        return settings.layers
    count = settings.num_layers or default
    if count > num_teacher_layers:
        raise SettingsError(f"num_layers is {count}, but the teacher has only {num_teacher_layers} layers")
    if settings.layer_rule == "lower":
        return tuple(range(count))
    if settings.layer_rule == "upper":
        return tuple(range(num_teacher_layers - count, num_teacher_layers))
    return tuple(round((index + 1) * num_teacher_layers / count) - 1 for index in range(count))


def keep_layers(teacher: TorchClassifier, layers: Sequence[int]) -> TorchClassifier:
    """Return a new classifier with these of the teacher's layers, in this order, and all its other weights.

    Raises:
        SettingsError: The teacher's family names its layers in a way that is not known.
    """
    config = copy.deepcopy(teacher.model.config)
    if tuple(layers) == tuple(range(config.num_hidden_layers)):
        return rebuilt(teacher, config=config, weights=teacher.model.state_dict())
    config.num_hidden_layers = len(layers)
    place_of = {layer: place for place, layer in enumerate(layers)}
    weights, layers_seen = {}, False
    for name, tensor in teacher.model.state_dict().items():
        match = _LAYER_NAME.match(name)
        if match is None:
            weights[name] = tensor
            continue
        layers_seen = True
        place = place_of.get(int(match["number"]))
        if place is not None:
            weights[f"{match['before']}{place}{match['after']}"] = tensor
    if not layers_seen:
        raise SettingsError(f"cannot find the layers of a {teacher.model.config.model_type} model; BERT's family is known")
    return rebuilt(teacher, config=config, weights=weights)


_TABLE = "embeddings.position_embeddings.weight"


def trim_positions(classifier: TorchClassifier) -> TorchClassifier:
    """Return the classifier with positions up to its tokenizer's `max_length`: no text reaches a later one.

    Families whose positions are not rows of a table (relative, rotary) are returned as they are.
    """
    config = classifier.model.config
    weights = classifier.model.state_dict()
    rows = position_offset(config) + classifier.tokenizer.max_length
    names = [name for name in weights if name.endswith(_TABLE)]
    if len(names) != 1 or len(weights[names[0]]) != config.max_position_embeddings or rows >= len(weights[names[0]]):
        return classifier
    if getattr(config, "relative_attention", False):  # DeBERTa counts its distances by the same number
        return classifier
    shorter = copy.deepcopy(config)
    shorter.max_position_embeddings = rows
    return rebuilt(classifier, config=shorter, weights={**weights, names[0]: weights[names[0]][:rows]})


def load_student(source: str, settings: DistillSettings, *, teacher: Classifier) -> TorchClassifier:
    """Return the model that is to learn, with a head for the teacher's labels.

    A head of as many labels that the checkpoint brings is kept, as is every other weight.

    Args:
        source: A folder, a bundle, a hub id, or `builtin:minilm`.
        settings: Device, the seed of a new head, and the tokens kept per text; without them as many as the teacher keeps.
        teacher: Whose labels, and whose `max_length` if it has one.

    Raises:
        SettingsError: Nothing says how many tokens to keep, or the model takes fewer.
        BundleError: No model can be loaded from there.
    """
    max_length = settings.max_length
    if max_length is None:
        if not isinstance(teacher, TorchClassifier):
            raise SettingsError("this teacher has no max_length that its student could take over; give it with --max-length")
        max_length = teacher.tokenizer.max_length
    student = load_pretrained(
        source, labels=teacher.labels, max_length=max_length, seed=settings.seed, problem_type=teacher.problem_type
    )
    on_device(student.model, chosen_device(settings.device))
    return student
