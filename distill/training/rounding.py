"""Quantization-aware distillation: the student learns with the rounding of its int8 graph.

In a short last phase every linear layer rounds its input to uint8 and its weights to 7 bits, as `export` does, and the
gradient is that of the unrounded values (straight-through estimator; Jacob et al., 2018). The scales of the inputs are
calibrated when the phase begins and then kept, so that the weights adapt to them; the bundle keeps them for `export`.
Supports BERT only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from distill.errors import SettingsError
from distill.models.families import family_of, layer_names
from distill.models.recording import recording
from distill.models.torch_classifier import TorchClassifier
from distill.scales import SEVEN_BIT_LIMIT, ChannelRange, InputScales, calibration_texts, input_scales
from distill.texts import TextInput


@dataclass(frozen=True)
class RoundedLayer:
    """A linear layer whose input and weights are rounded.

    Attributes:
        module: The layer.
        input: Name of its input in the fused graph; layers with the same input share its scales.
        first_token_only: Whether the graph computes it for the first token only, because the logits need no other.
        scale: Factor of the weights in the graph. It is 1 except for a query, which includes the attention's scaling.
    """

    module: nn.Linear
    input: str
    first_token_only: bool = False
    scale: float = 1.0


def rounded_layers(classifier: TorchClassifier) -> list[RoundedLayer]:
    """Return the linear layers that the int8 graph quantizes, in its order.

    Raises:
        SettingsError: The model is not a BERT with one embedding table.
    """
    model = classifier.model
    config = model.config
    if config.model_type != "bert" or getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
        raise SettingsError(
            f"quantization-aware training supports BERT with one embedding table, not {type(model).__name__}; "
            "leave out --quantization-aware-epochs"
        )
    family, layers = family_of(config), layer_names(model)
    query_scale = (config.hidden_size // config.num_attention_heads) ** -0.5
    found = []
    below = "embedding.norm"
    for number, layer in enumerate(layers):
        name, last = f"layer.{number}", number == len(layers) - 1
        inputs = {
            family.query: f"{name}.first" if last else below,
            family.key: below,
            family.value: below,
            family.attention_output: f"{name}.context",
            family.up: f"{name}.attention.norm",
            family.down: f"{name}.active",
        }
        found += [
            RoundedLayer(
                cast(nn.Linear, model.get_submodule(f"{layer}.{part}")),
                source,
                first_token_only=last and source != below,
                scale=query_scale if part == family.query else 1.0,
            )
            for part, source in inputs.items()
        ]
        below = f"{name}.norm"
    return [*found, RoundedLayer(cast(nn.Linear, model.get_submodule(family.pooler)), below, first_token_only=True)]


@contextmanager
def rounding(classifier: TorchClassifier, texts: Sequence[TextInput]) -> Iterator[dict[str, InputScales]]:
    """Calibrate the model, round in its linear layers inside the block, and yield the scales of their inputs by name.

    Args:
        classifier: The model. After the block it no longer rounds, and keeps the weights it has then.
        texts: Texts like those it will see; at most 400 are used, and the first word of each.

    Raises:
        SettingsError: There is no text, or the model is not supported.
    """
    layers = rounded_layers(classifier)
    scales = _calibrated(classifier, layers, texts)
    try:
        for layer in layers:
            vars(layer.module)["forward"] = _rounding_forward(layer.module, scales[layer.input])
        yield scales
    finally:
        for layer in layers:
            vars(layer.module).pop("forward", None)


def _calibrated(
    classifier: TorchClassifier, layers: Sequence[RoundedLayer], texts: Sequence[TextInput]
) -> dict[str, InputScales]:
    """Return the scales of every layer's input, computed from its values and the weights that read it, as export does."""
    if not texts:
        raise SettingsError("quantization-aware training needs texts to calibrate with, and there are none")
    ranges: dict[str, ChannelRange] = {}

    def record(layer: RoundedLayer, given: Tensor, _: Tensor) -> None:
        values = given.detach().float()
        if layer.first_token_only and values.ndim == 3:  # the pooler's input is the first token already
            values = values[:, 0]
        rows = values.reshape(-1, values.shape[-1]).cpu().numpy()
        seen = ChannelRange(rows.min(axis=0), rows.max(axis=0))
        ranges[layer.input] = ranges[layer.input].joined(seen) if layer.input in ranges else seen

    with recording({layer: layer.module for layer in layers}, record):
        # One text at a time: values at padding do not influence the logits and must not widen the ranges.
        for text in calibration_texts(texts):
            classifier.predict_logits([text])
    weights: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for layer in layers:
        weights[layer.input].append(layer.module.weight.detach().float().cpu().numpy().T * np.float32(layer.scale))
    return {name: input_scales(ranges[name], matrices) for name, matrices in weights.items()}


def _rounding_forward(module: nn.Linear, scales: InputScales) -> Callable[[Tensor], Tensor]:
    step = torch.from_numpy(scales.step).to(module.weight.device)

    def forward(values: Tensor) -> Tensor:
        # Not in bf16: its 8 significant bits round as coarsely as the uint8 that the layer learns with.
        with torch.autocast(values.device.type, enabled=False):
            inputs = rounded_input(values.float(), step, scales.zero_point)
            return nn.functional.linear(inputs, rounded_weights(module.weight, step), module.bias)

    return forward


def rounded_weights(weights: Tensor, step: Tensor) -> Tensor:
    """Return the weights rounded to 7 bits, shape (outputs, inputs); the gradient is that of the unrounded weights.

    As in the graph, the weights are multiplied by the steps of the inputs before they are rounded.
    """
    scaled = weights.detach() * step
    unit = scaled.abs().amax(dim=1, keepdim=True) / SEVEN_BIT_LIMIT
    unit = torch.where(unit > 0, unit, 1)
    return weights + (torch.round(scaled / unit) * unit / step - weights).detach()


def rounded_input(values: Tensor, step: Tensor, zero_point: int) -> Tensor:
    """Return the input rounded to uint8; the gradient is 1 within the range of uint8 and 0 outside."""
    steps = (values * (1 / step)).clamp(-zero_point, 255 - zero_point)
    return (steps + (torch.round(steps) - steps).detach()) * step
