"""Quantization-aware distillation: the student learns with the rounding that its int8 graph will do.

In a short last phase every product of the encoder rounds its input to bytes and its weights to 7 bits, as `export` does, and
the gradient passes as if nothing were rounded (Jacob et al., 2018). The scales of the inputs are calibrated when the phase
begins and stay as they are, so that the weights settle around them; they travel in the bundle. Knows BERT's products only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from distill.scales import SEVEN_BIT_LIMIT, ChannelRange, InputScales, KnownScales, calibration_texts, input_scales
from distill.settings import DistillSettings

RATE_SHARE = 0.1
"""Of the peak learning rate: the weights are where they should be, and only settle."""


@dataclass(frozen=True)
class RoundedProduct:
    """A product that is rounded.

    Attributes:
        module: The module that does it.
        input: What the fused writer calls its input; products of one input share its scales.
        first_token_only: Whether the graph computes it for the first token alone: the others' values reach no answer.
        scale: What the graph's weights are these times of: 1, but for a query, which is divided beforehand.
    """

    module: nn.Linear
    input: str
    first_token_only: bool = False
    scale: float = 1.0


def phase_settings(settings: DistillSettings) -> DistillSettings:
    """Return the settings of the phase: its epochs, at a tenth of the rate."""
    epochs = settings.quantization_aware_epochs
    rate = settings.learning_rate * RATE_SHARE
    return settings.model_copy(update={"epochs": epochs, "learning_rate": rate})


def rounded_products(classifier: TorchClassifier) -> list[RoundedProduct]:
    """Return the products that the int8 graph rounds, in its order.

    Raises:
        SettingsError: The model is not a BERT with one table of tokens.
    """
    model = classifier.model
    config = model.config
    if config.model_type != "bert" or getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
        raise SettingsError(
            f"rounding in training knows BERT with one table of tokens, not {type(model).__name__}; "
            "leave out --quantization-aware-epochs"
        )
    family, layers = family_of(config), layer_names(model)
    query_scale = (config.hidden_size // config.num_attention_heads) ** -0.5
    found = []
    before = "embedding.norm"
    for number, layer in enumerate(layers):
        name, last = f"layer.{number}", number == len(layers) - 1
        inputs = {
            family.query: f"{name}.first" if last else before,
            family.key: before,
            family.value: before,
            family.attention_output: f"{name}.context",
            family.up: f"{name}.attention.norm",
            family.down: f"{name}.active",
        }
        for part, given in inputs.items():
            module = cast(nn.Linear, model.get_submodule(f"{layer}.{part}"))
            scale = query_scale if part == family.query else 1.0
            found.append(RoundedProduct(module, given, first_token_only=last and given != before, scale=scale))
        before = f"{name}.norm"
    return [*found, RoundedProduct(cast(nn.Linear, model.get_submodule(family.pooler)), before, first_token_only=True)]


@contextmanager
def rounding(classifier: TorchClassifier, texts: Sequence[str]) -> Iterator[dict[str, InputScales]]:
    """Calibrate, let the products of the model round inside the block, and yield the scales of their inputs by name.

    Args:
        classifier: Its model; afterwards it is as before, with the weights it has then.
        texts: Texts like those it will meet; at most 400 are used, and their first words.

    Raises:
        SettingsError: There is no text, or the model's products are not known.
    """
    products = rounded_products(classifier)
    scales = calibrated(classifier, products, texts)
    try:
        for product in products:
            vars(product.module)["forward"] = _rounding_forward(product.module, scales[product.input])
        yield scales
    finally:
        for product in products:
            vars(product.module).pop("forward", None)


def calibrated(classifier: TorchClassifier, products: Sequence[RoundedProduct], texts: Sequence[str]) -> dict[str, InputScales]:
    """Return the scales of every product's input, from the values it takes and the weights it meets, as export finds them."""
    if not texts:
        raise SettingsError("rounding in training needs texts to calibrate with, and there are none")
    ranges: dict[str, ChannelRange] = {}

    def record(product: RoundedProduct, given: Tensor, _: Tensor) -> None:
        values = given.detach().float()
        if product.first_token_only and values.ndim == 3:  # the pooler is given the first token and no other
            values = values[:, 0]
        rows = values.reshape(-1, values.shape[-1]).cpu().numpy()
        seen = ChannelRange(rows.min(axis=0), rows.max(axis=0))
        ranges[product.input] = ranges[product.input].joined(seen) if product.input in ranges else seen

    with recording({product: product.module for product in products}, record):
        # One text at a time: padded places hold values that no answer depends on.
        for text in calibration_texts(texts):
            classifier.predict_logits([text])
    readers: dict[str, list[np.ndarray]] = defaultdict(list)
    for product in products:
        readers[product.input].append(product.module.weight.detach().float().cpu().numpy().T * np.float32(product.scale))
    return {name: input_scales(ranges[name], weights) for name, weights in readers.items()}


def rounded_weights(weights: Tensor, step: Tensor) -> Tensor:
    """Return what the graph's 7-bit weights stand for, shape (outputs, inputs); the gradient is that of the weights.

    The steps of the inputs belong to the weights before they are rounded, as in the graph.
    """
    scaled = weights.detach() * step
    unit = scaled.abs().amax(dim=1, keepdim=True) / SEVEN_BIT_LIMIT
    unit = torch.where(unit > 0, unit, 1)
    return weights + (torch.round(scaled / unit) * unit / step - weights).detach()


def rounded_input(values: Tensor, step: Tensor, zero_point: int) -> Tensor:
    """Return what the bytes of an input stand for; the gradient is 1 where a value has a byte, and 0 beyond them."""
    steps = (values * (1 / step)).clamp(-zero_point, 255 - zero_point)
    return (steps + (torch.round(steps) - steps).detach()) * step


def _rounding_forward(module: nn.Linear, scales: InputScales) -> Callable[[Tensor], Tensor]:
    step = torch.from_numpy(scales.step).to(module.weight.device)

    def forward(values: Tensor) -> Tensor:
        # bf16 has 8 bits itself: its own rounding would be as large as the one that is learnt
        with torch.autocast(values.device.type, enabled=False):
            rounded = rounded_input(values.float(), step, scales.zero_point)
            return nn.functional.linear(rounded, rounded_weights(module.weight, step), module.bias)

    return forward


def learned_scales(scales: Mapping[str, InputScales]) -> KnownScales:
    """Return the scales with how they were got, as the bundle keeps them."""
    return {name: (each, "quantization-aware distillation") for name, each in scales.items()}
