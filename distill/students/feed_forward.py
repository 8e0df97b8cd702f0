"""A smaller feed-forward: the neurons whose answers vary, and carry, the most are kept.

A neuron adds its activation times its outgoing weights to the hidden state. What it adds on average can be added by the
bias instead, so a removed neuron costs only what varies about it: the standard deviation of its activation times the
norm of its outgoing weights, in units of the hidden state.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.errors import SettingsError
from distill.models.loading import rebuilt
from distill.models.torch_classifier import TorchClassifier

SAMPLE_TEXTS = 512
"""Texts that neurons are judged on, at most: some ten thousand tokens."""

_FAMILIES = (
    # names of a layer's two products: from the hidden state to the neurons, and back
    (re.compile(r"^(?P<layer>.*\.encoder\.layer\.\d+)\.intermediate\.dense$"), "{layer}.output.dense"),
    (re.compile(r"^(?P<layer>.*\.transformer\.layer\.\d+)\.ffn\.lin1$"), "{layer}.ffn.lin2"),
)


@dataclass(frozen=True)
class FeedForward:
    """Names of the two products of one layer."""

    up: str
    down: str


@dataclass
class Moments:
    """Sums over tokens of a layer's activations, each of shape (neurons,)."""

    count: int
    total: Tensor
    squares: Tensor

    def mean(self) -> Tensor:
        """Return the mean activation of each neuron."""
        return self.total / self.count

    def deviation(self) -> Tensor:
        """Return the standard deviation of each neuron's activation."""
        return (self.squares / self.count - self.mean() ** 2).clamp(min=0).sqrt()


def narrow_feed_forward(classifier: TorchClassifier, size: int, *, texts: Sequence[str]) -> TorchClassifier:
    """Return the classifier with `size` neurons in each layer's feed-forward.

    Args:
        classifier: Of a family whose feed-forward is two products with an activation between.
        size: Neurons per layer, at most as many as there are.
        texts: The transfer set; an even sample of it is run through the model.

    Raises:
        SettingsError: There are not as many neurons, no texts, or the family's feed-forward is not known.
    """
    layers = feed_forwards(classifier)
    weights = dict(classifier.model.state_dict())
    present = len(weights[f"{layers[0].up}.bias"])
    if size > present:
        raise SettingsError(f"intermediate_size is {size}, but the layers have only {present} neurons")
    if size == present:
        return classifier
    if not texts:
        raise SettingsError("neurons are chosen on the texts that the student learns from, and none were given")
    moments = activation_moments(classifier, layers, sample_of(texts))
    for layer in layers:
        outgoing = weights[f"{layer.down}.weight"]
        importance = moments[layer.down].deviation() * outgoing.double().norm(dim=0)
        kept = importance.topk(size).indices.sort().values
        gone = torch.ones(present, dtype=torch.bool, device=kept.device)
        gone[kept] = False
        on_average = outgoing[:, gone].double() @ moments[layer.down].mean()[gone]
        weights[f"{layer.down}.bias"] = weights[f"{layer.down}.bias"] + on_average.to(outgoing.dtype)
        weights[f"{layer.down}.weight"] = outgoing[:, kept]
        weights[f"{layer.up}.weight"] = weights[f"{layer.up}.weight"][kept]
        weights[f"{layer.up}.bias"] = weights[f"{layer.up}.bias"][kept]
    config = copy.deepcopy(classifier.model.config)
    setattr(config, "hidden_dim" if config.model_type == "distilbert" else "intermediate_size", size)
    return rebuilt(classifier, config=config, weights=weights)


def feed_forwards(classifier: TorchClassifier) -> list[FeedForward]:
    """Return where the feed-forward of each layer stands, the first layer first.

    Raises:
        SettingsError: The family names them in a way that is not known.
    """
    found = [
        FeedForward(name, down.format(layer=match["layer"]))
        for name, _ in classifier.model.named_modules()
        for pattern, down in _FAMILIES
        if (match := pattern.match(name))
    ]
    if not found:
        kind = classifier.model.config.model_type
        raise SettingsError(f"cannot find the feed-forward of a {kind} model; leave out --intermediate-size")
    return found


def sample_of(texts: Sequence[str]) -> list[str]:
    """Return at most `SAMPLE_TEXTS` of the texts, evenly spread."""
    count = min(len(texts), SAMPLE_TEXTS)
    return [texts[index * len(texts) // count] for index in range(count)]


def activation_moments(classifier: TorchClassifier, layers: Sequence[FeedForward], texts: Sequence[str]) -> dict[str, Moments]:
    """Run the texts and return the moments of the activations that go into each `down` product, by its name.

    Padding is not counted. Sums are kept in double precision: a variance is a small difference of large ones.
    """
    rows = sorted(classifier.tokenizer.encode(texts), key=len)
    found: dict[str, Moments] = {}
    mask = torch.empty(0)

    def record(name: str, activations: Tensor) -> None:
        real = activations[mask].double()
        seen = found.setdefault(name, Moments(0, torch.zeros_like(real[0]), torch.zeros_like(real[0])))
        seen.count += len(real)
        seen.total += real.sum(dim=0)
        seen.squares += (real**2).sum(dim=0)

    with _listening(classifier.model, [layer.down for layer in layers], record), torch.inference_mode():
        for start in range(0, len(rows), 32):
            batch = classifier.tokenizer.pad(rows[start : start + 32])
            inputs = {name: torch.from_numpy(values).to(classifier.model.device) for name, values in batch._asdict().items()}
            mask = inputs["attention_mask"].bool()
            classifier.model(**inputs)
    return found


@contextmanager
def _listening(model: PreTrainedModel, names: Sequence[str], heard: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Tell of what goes into each named module inside the block, with the model in evaluation mode."""
    was_training = model.training
    model.eval()
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: heard(name, inputs[0]))
        for name in names
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
