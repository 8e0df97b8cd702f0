"""Which weights of a model learn, and how fast: freezing, unfreezing, slower lower layers, new top layers, LoRA.

Works on the module alone; the loop asks `LayerRates` for the share of the rate that a weight has in an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.bundle import Bundle
from distill.errors import SettingsError, requires
from distill.labels import ProblemType
from distill.losses.objective import Objective, StepLoss, TrainingBatch
from distill.models.families import family_of, in_layer, layer_names
from distill.models.loading import load_pretrained
from distill.models.torch_classifier import TorchClassifier
from distill.teacher_settings import TeacherSettings
from distill.transfer.features import encoder_of


@dataclass(frozen=True)
class LayerRates:
    """The share of the learning rate that each weight has in each epoch.

    With decay d a weight that lies n layers below the head learns at d^n of the rate (Howard and Ruder, 2018, call it
    discriminative fine-tuning); the embeddings lie below the lowest layer. With gradual unfreezing only weights less than e
    layers below the head learn in epoch e, counted from 1.

    Attributes:
        num_layers: Layers of the encoder.
        decay: From 0 to 1.
        gradual: Unfreeze one layer an epoch.
    """

    num_layers: int
    decay: float = 1.0
    gradual: bool = False

    def __call__(self, name: str, epoch: int) -> float:
        """Return the share of a weight, by its name, in an epoch from 0."""
        depth = depth_of(name, num_layers=self.num_layers)
        return 0.0 if self.gradual and depth > epoch else self.decay**depth


def depth_of(name: str, *, num_layers: int) -> int:
    """Return how many layers below the head a weight lies: 0 is the head and pooler, 1 the top layer."""
    place = in_layer(name)
    if place is not None:
        return num_layers - place.number
    return num_layers + 1 if "embeddings" in name else 0


def require_enough_epochs(settings: TeacherSettings, *, num_layers: int) -> None:
    """Refuse gradual unfreezing that would end before the lowest layer and the embeddings are trained.

    Raises:
        SettingsError: There are too few epochs; the message says how many are needed.
    """
    below = settings.freeze_below
    needed = 1 + (num_layers - below if below else num_layers + 1)  # the embeddings are below the lowest layer
    if settings.epochs < needed:
        raise SettingsError(
            f"gradual_unfreezing unfreezes one layer per epoch and needs {needed} epochs for this model, but there are "
            f"{settings.epochs}; set --epochs {needed}, or freeze lower layers for good with --freeze-below"
        )


def freeze(model: PreTrainedModel, *, below: int) -> None:
    """Leave the embeddings and the `below` lowest layers as they are; 0 leaves none.

    Raises:
        SettingsError: There are fewer layers.
    """
    if not below:
        return
    num_layers = model.config.num_hidden_layers
    if below > num_layers:
        raise SettingsError(f"freeze_below is {below}, but the model has only {num_layers} layers")
    for name, parameter in model.named_parameters():
        if depth_of(name, num_layers=num_layers) > num_layers - below:
            parameter.requires_grad_(False)


def freeze_body(model: PreTrainedModel) -> None:
    """Leave every layer as it is; embeddings, pooler and head learn.

    Raises:
        SettingsError: The family names its layers in a way that is not known.
    """
    for layer in layer_names(model):
        model.get_submodule(layer).requires_grad_(False)


def draw_anew(model: PreTrainedModel, *, top_layers: int, seed: int) -> None:
    """Draw the weights of the top layers, and of the pooler, as at the model's own beginning (Zhang et al., 2021).

    Raises:
        SettingsError: There are fewer layers, or the family names them in a way that is not known.
    """
    if not top_layers:
        return
    num_layers = model.config.num_hidden_layers
    if top_layers > num_layers:
        raise SettingsError(f"reinit_layers is {top_layers}, but the model has only {num_layers} layers")

    def concerned(name: str) -> bool:
        place = in_layer(name)
        return place.number >= num_layers - top_layers if place else ".pooler" in name

    layer_names(model)  # raises if there are none
    _draw(model, concerned, seed=seed)


def draw_head_anew(model: PreTrainedModel, *, seed: int) -> None:
    """Draw the weights of the head, all that is not the encoder."""
    prefix = f"{model.base_model_prefix}."
    _draw(model, lambda name: bool(name) and not f"{name}.".startswith(prefix), seed=seed)


def draw_all_anew(model: PreTrainedModel, *, seed: int) -> None:
    """Draw every weight: what training from scratch begins with."""
    _draw(model, lambda name: True, seed=seed)  # noqa: ARG005


def start_from(
    init: Bundle, *, labels: tuple[str, ...], settings: TeacherSettings, problem_type: ProblemType
) -> TorchClassifier:
    """Load a bundle for another task: its encoder, and its head where the label names are the same, in any order."""
    loaded = load_pretrained(
        str(init.path), labels=labels, max_length=settings.max_length, seed=settings.seed, problem_type=problem_type
    )
    loaded.origin = init.manifest.lineage.base_model
    if init.labels == labels:
        return loaded
    if sorted(init.labels) != sorted(labels):
        draw_head_anew(loaded.model, seed=settings.seed)
        return loaded
    order = [init.labels.index(name) for name in labels]
    prefix = f"{loaded.model.base_model_prefix}."
    weights = loaded.model.state_dict()
    heads = [name for name, tensor in weights.items() if not name.startswith(prefix) and len(tensor) == len(labels)]
    loaded.model.load_state_dict({**weights, **{name: weights[name][order] for name in heads}})
    return loaded


@dataclass(frozen=True)
class Adapter:
    """Low-rank directions beside the products of a model, to be merged into them when they have learnt."""

    tuner: Any

    def merge(self) -> None:
        """Add the directions to the weights they stand beside; the model is then as plain as before."""
        self.tuner.merge_and_unload()


def add_lora(model: PreTrainedModel, settings: TeacherSettings) -> Adapter | None:
    """Freeze the encoder and put low-rank directions beside its query and value products; the head learns too.

    Hu et al., 2022, "LoRA".

    Raises:
        MissingExtraError: peft is not installed.
        SettingsError: The family names its products in a way that is not known.
    """
    if not settings.lora_rank:
        return None
    with requires("LoRA"):
        from peft import LoraConfig, LoraModel
    family = family_of(model.config)
    targets = [family.query, family.value]
    if not all(any(name.endswith(f".{target}") for name, _ in model.named_modules()) for target in targets):
        raise SettingsError(f"lora_rank: the query and value products of a {model.config.model_type} model are not known")
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_rank * settings.lora_scale, target_modules=targets, bias="none"
    )
    encoder = encoder_of(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        tuner = LoraModel(encoder, config, "default")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name or "pooler." in name)
    return Adapter(tuner)


def _draw(model: PreTrainedModel, concerned: Callable[[str], bool], *, seed: int) -> None:
    """Draw the weights of the concerned modules."""
    deviation = float(getattr(model.config, "initializer_range", 0.02))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            if not concerned(name) or not list(module.parameters(recurse=False)):
                continue
            for kind, parameter in module.named_parameters(recurse=False):
                if kind == "bias":
                    parameter.zero_()
                elif parameter.ndim < 2:
                    parameter.fill_(1.0)
                else:
                    parameter.normal_(0.0, deviation)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()


class AnchoredObjective(Objective):
    """An objective plus weight * the squared distance of the encoder's trained weights from their first values.

    The head is left out: it is new, or belongs to another task.
    """

    def __init__(self, objective: Objective, encoder: nn.Module, *, weight: float) -> None:
        super().__init__(objective.parts)
        self._weight = weight
        trained = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
        # In lists, which a module does not look into: the weights are the model's, and where they began need not be saved.
        self._now = list(trained.values())
        self._began = [parameter.detach().clone() for parameter in trained.values()]

    def distance(self) -> Tensor:
        """Return the squared distance, a scalar with a gradient."""
        pairs = zip(self._now, self._began, strict=True)
        squares = [(parameter - began).square().sum() for parameter, began in pairs]
        total = squares[0]
        for square in squares[1:]:
            total = total + square
        return total

    def forward(self, model: nn.Module, batch: TrainingBatch) -> StepLoss:
        """Return the objective's loss with the pull added; the terms name it `anchor`, before it is weighted."""
        loss = super().forward(model, batch)
        distance = self.distance()
        return StepLoss(loss.total + self._weight * distance, {**loss.terms, "anchor": float(distance.detach())})


def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide what the model answers by a temperature, in the weights of its last product.

    Raises:
        SettingsError: There is no such product.
    """
    prefix = f"{model.base_model_prefix}."
    products = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(prefix) and module.out_features == model.config.num_labels
    ]
    if not products:
        raise SettingsError(f"{type(model).__name__} has no product that gives the logits, so it cannot be calibrated")
    with torch.no_grad():
        products[-1].weight.div_(temperature)
        if products[-1].bias is not None:
            products[-1].bias.div_(temperature)
