"""Choosing which of the teacher's layers a student is made of."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

from distill.errors import SettingsError
from distill.settings import StudentSettings
from distill.training.models import TorchClassifier
from distill.training.students.rebuilding import rebuilt

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
