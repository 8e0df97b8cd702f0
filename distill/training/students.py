"""Making a student out of a teacher's layers.

Random initialisation costs more than dropping any loss term (Sanh et al., 2019, "DistilBERT", table 4), so every
weight of the student starts as a weight of the teacher.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace

from distill.errors import SettingsError
from distill.settings import StudentSettings
from distill.training.devices import on_device
from distill.training.models import TorchClassifier, blank_model

# Where the encoder's layers stand, by the names the model families give them.
_LAYER_NAME = re.compile(r"^(?P<before>.*(?:encoder\.layer|transformer\.layer)\.)(?P<number>\d+)(?P<after>\..*)$")


def chosen_layers(settings: StudentSettings, num_teacher_layers: int) -> tuple[int, ...]:
    """Return which teacher layers (from 0) the student keeps, in order.

    The rule "spread" takes the last layer of each of `num_layers` equal segments: 1, 3, 5 of six.

    Raises:
        SettingsError: The teacher does not have them.
    """
    if settings.layers:
        beyond = [layer for layer in settings.layers if layer >= num_teacher_layers]
        if beyond:
            raise SettingsError(f"layers names {beyond[0]}, but the teacher has layers 0 to {num_teacher_layers - 1}")
        return settings.layers
    count = settings.num_layers
    if count > num_teacher_layers:
        raise SettingsError(f"num_layers is {count}, but the teacher has only {num_teacher_layers} layers")
    if settings.layer_rule == "lower":
        return tuple(range(count))
    if settings.layer_rule == "upper":
        return tuple(range(num_teacher_layers - count, num_teacher_layers))
    return tuple(round((index + 1) * num_teacher_layers / count) - 1 for index in range(count))


def build_student(teacher: TorchClassifier, settings: StudentSettings) -> TorchClassifier:
    """Return a new classifier with some of the teacher's layers and all its other weights; the teacher stays as it is.

    Raises:
        SettingsError: The teacher lacks such layers, or its family names them in a way that is not known.
    """
    layers = chosen_layers(settings, teacher.model.config.num_hidden_layers)
    config = copy.deepcopy(teacher.model.config)
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
    model = blank_model(config)
    model.load_state_dict(weights, strict=True)  # strict: no weight of the student may stay random
    return replace(teacher, model=on_device(model, teacher.model.device))
