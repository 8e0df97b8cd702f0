"""A shallower student: some of the teacher's layers, and the positions that its texts can reach."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

from distill.errors import SettingsError
from distill.models.families import in_layer, layer_names, position_offset
from distill.models.loading import rebuilt
from distill.models.torch_classifier import TorchClassifier
from distill.settings import LayerRule, StudentSettings

DEFAULT_NUM_LAYERS = 3
"""Layers of a student when its settings name none."""

_TABLE = "embeddings.position_embeddings.weight"


def chosen_layers(settings: StudentSettings, num_teacher_layers: int, *, default: int = DEFAULT_NUM_LAYERS) -> tuple[int, ...]:
    """Return which teacher layers (from 0) the student keeps, in order.

    The rule "spread" takes the last layer of each of `num_layers` equal segments: 1, 3, 5 of six.

    Args:
        settings: Layers by number, or their number and the rule.
        num_teacher_layers: Layers of the teacher.
        default: Number of layers when the settings give neither.

    Raises:
        SettingsError: The teacher has fewer layers.
    """
    if settings.layers:
        if (highest := max(settings.layers)) >= num_teacher_layers:
            raise SettingsError(f"layers names {highest}, but the teacher has layers 0 to {num_teacher_layers - 1}")
        return settings.layers
    count = settings.num_layers or default
    if count > num_teacher_layers:
        raise SettingsError(f"num_layers is {count}, but the teacher has only {num_teacher_layers} layers")
    by_rule: dict[LayerRule, Iterable[int]] = {
        "lower": range(count),
        "upper": range(num_teacher_layers - count, num_teacher_layers),
        "spread": (round((index + 1) * num_teacher_layers / count) - 1 for index in range(count)),
    }
    return tuple(by_rule[settings.layer_rule])


def keep_layers(teacher: TorchClassifier, layers: Sequence[int]) -> TorchClassifier:
    """Return a new classifier with these of the teacher's layers, in this order, and all its other weights.

    Raises:
        SettingsError: The teacher's list of layers has a name that no known family uses.
    """
    config = copy.deepcopy(teacher.model.config)
    weights = teacher.model.state_dict()
    if tuple(layers) != tuple(range(config.num_hidden_layers)):
        layer_names(teacher.model)  # raises if there are none
        config.num_hidden_layers = len(layers)
        places = {name: in_layer(name) for name in weights}
        outside = {name: weights[name] for name, place in places.items() if place is None}
        kept = {
            f"{place.layers}.{layers.index(place.number)}.{place.part}": weights[name]
            for name, place in places.items()
            if place is not None and place.number in layers
        }
        weights = {**outside, **kept}
    return rebuilt(teacher, config=config, weights=weights)


def trim_positions(classifier: TorchClassifier) -> TorchClassifier:
    """Return the classifier with positions up to its tokenizer's `max_length`, the last that a text can reach.

    Families whose positions are not rows of a table (relative, rotary) are returned unchanged.
    """
    config = classifier.model.config
    weights = classifier.model.state_dict()
    rows = position_offset(config) + classifier.tokenizer.max_length
    names = [name for name in weights if name.endswith(_TABLE)]
    relative = getattr(config, "relative_attention", False)  # DeBERTa bounds its relative distances by the same setting
    if relative or len(names) != 1 or not rows < len(weights[names[0]]) == config.max_position_embeddings:
        return classifier
    shorter = copy.deepcopy(config)
    shorter.max_position_embeddings = rows
    return rebuilt(classifier, config=shorter, weights={**weights, names[0]: weights[names[0]][:rows]})
