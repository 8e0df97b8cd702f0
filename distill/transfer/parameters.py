"""Choose which weights of a model are trained, and how fast: freezing, layer-wise rates, reinitialization, LoRA, L2-SP.

Works on the module alone; the training loop asks `LayerRates` for a weight's share of the learning rate in an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
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

if TYPE_CHECKING:
    from peft import LoraModel


@dataclass(frozen=True)
class LayerRates:
    """Each weight's share of the learning rate in each epoch.

    With decay d, a weight n layers below the head has d^n of the rate (discriminative fine-tuning; Howard and Ruder, 2018);
    the embeddings are below the lowest layer. With gradual unfreezing, only weights less than e layers below the head are
    trained in epoch e, counted from 1.

    Attributes:
        num_layers: Number of layers of the encoder.
        decay: From 0 to 1.
        gradual: Unfreeze one layer per epoch.
    """

    num_layers: int
    decay: float = 1.0
    gradual: bool = False

    def __call__(self, name: str, epoch: int) -> float:
        """Return the share of the weight with this name in an epoch, counted from 0."""
        depth = depth_of(name, num_layers=self.num_layers)
        return 0.0 if self.gradual and depth > epoch else self.decay**depth


def depth_of(name: str, *, num_layers: int) -> int:
    """Return how many layers below the head a weight is: 0 for the head and pooler, 1 for the top layer."""
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
    """Freeze the embeddings and the `below` lowest layers; 0 freezes nothing.

    Raises:
        SettingsError: The model has fewer layers.
    """
    if below:
        first = _layers_above(model, below, setting="freeze_below")
        for name, parameter in model.named_parameters():
            if depth_of(name, num_layers=model.config.num_hidden_layers) > first:
                parameter.requires_grad_(False)


def freeze_body(model: PreTrainedModel) -> None:
    """Freeze every layer; embeddings, pooler and head are trained.

    Raises:
        SettingsError: The layers of this model family are not known.
    """
    for layer in layer_names(model):
        model.get_submodule(layer).requires_grad_(False)


def reinitialize_top(model: PreTrainedModel, *, layers: int, seed: int) -> None:
    """Reinitialize the weights of the top layers and of the pooler (Zhang et al., 2021); 0 layers changes nothing.

    Raises:
        SettingsError: The model has fewer layers, or the layers of this model family are not known.
    """
    if layers:
        first = _layers_above(model, layers, setting="reinit_layers")
        layer_names(model)  # raises if they are not known
        reinitialize(model, lambda name: place.number >= first if (place := in_layer(name)) else ".pooler." in name, seed=seed)


def reinitialize(model: PreTrainedModel, chosen: Callable[[str], bool], *, seed: int) -> None:
    """Replace the weights whose name is chosen by those of a new model with the same config."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = type(model)(model.config).state_dict()
    model.load_state_dict({name: new[name] if chosen(name) else weight for name, weight in model.state_dict().items()})


def _layers_above(model: PreTrainedModel, count: int, *, setting: str) -> int:
    """Return the number of layers without `count` of them; refuse more than there are."""
    num_layers = int(model.config.num_hidden_layers)
    if count > num_layers:
        raise SettingsError(f"{setting} is {count}, but the model has only {num_layers} layers")
    return num_layers - count


def start_from(
    init: Bundle, *, labels: tuple[str, ...], settings: TeacherSettings, problem_type: ProblemType
) -> TorchClassifier:
    """Load a bundle for another task: its encoder, and its head if the label names are the same, in any order."""
    loaded = load_pretrained(
        str(init.path), labels=labels, max_length=settings.max_length, seed=settings.seed, problem_type=problem_type
    )
    loaded.origin = init.manifest.lineage.base_model
    prefix = f"{loaded.model.base_model_prefix}."
    if sorted(init.labels) != sorted(labels):
        reinitialize(loaded.model, lambda name: not name.startswith(prefix), seed=settings.seed)
    else:
        order = [init.labels.index(name) for name in labels]
        weights = loaded.model.state_dict()
        heads = [name for name, tensor in weights.items() if not name.startswith(prefix) and len(tensor) == len(labels)]
        loaded.model.load_state_dict({**weights, **{name: weights[name][order] for name in heads}})
    return loaded


def add_lora(model: PreTrainedModel, settings: TeacherSettings) -> LoraModel | None:
    """Freeze the encoder and add LoRA adapters to its query and value layers; pooler and head are trained too.

    Hu et al., 2022, "LoRA".

    Returns:
        The adapters, whose `merge_and_unload` adds them to the weights after training; None if `lora_rank` is 0.

    Raises:
        MissingExtraError: peft is not installed.
        SettingsError: The query and value layers of this model family are not known.
    """
    if not settings.lora_rank:
        return None
    with requires("LoRA"):
        from peft import LoraConfig, LoraModel
    family = family_of(model.config)
    targets = [family.query, family.value]
    if not all(any(name.endswith(f".{target}") for name, _ in model.named_modules()) for target in targets):
        raise SettingsError(
            f"lora_rank needs the query and value layers, which are not known for a {model.config.model_type} model; "
            "leave out --lora-rank"
        )
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_rank * settings.lora_scale, target_modules=targets, bias="none"
    )
    encoder = encoder_of(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        adapters = LoraModel(encoder, config, "default")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name or "pooler." in name)
    return adapters


class AnchoredObjective(Objective):
    """An objective plus weight * the squared distance of the encoder's trained weights from their initial values (L2-SP).

    The head is left out: it is new, or belongs to another task.
    """

    def __init__(self, objective: Objective, encoder: nn.Module, *, weight: float) -> None:
        super().__init__(objective.parts)
        self._weight = weight
        # In a list, which a module does not search for parameters: neither the weights nor the copies are saved twice.
        self._pairs = [(now, now.detach().clone()) for now in encoder.parameters() if now.requires_grad]

    def forward(self, model: nn.Module, batch: TrainingBatch) -> StepLoss:
        """Return the objective's loss plus the weighted distance; the term `anchor` is the distance without the weight."""
        loss = super().forward(model, batch)
        distance = torch.stack([(now - initial).square().sum() for now, initial in self._pairs]).sum()
        return StepLoss(loss.total + self._weight * distance, {**loss.terms, "anchor": float(distance.detach())})


def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide the model's logits by a temperature, in the weights of its last linear layer.

    Raises:
        SettingsError: The model has no such layer.
    """
    prefix = f"{model.base_model_prefix}."
    linear = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(prefix) and module.out_features == model.config.num_labels
    ]
    if not linear:
        raise SettingsError(f"{type(model).__name__} has no linear layer that returns the logits, so it cannot be calibrated")
    with torch.no_grad():
        for parameter in linear[-1].parameters():
            parameter.div_(temperature)
