"""A narrower student: fewer channels in the encoder, fewer neurons in its feed-forward layers.

*Channels.* Post-norm encoders such as BERT have one residual stream of `hidden_size` channels that every block reads and
writes. The second moment of the stream over real texts is diagonalised and its strongest directions are kept (as in
SliceGPT, Ashkboos et al., 2024, which needs RMSNorm; here the scales of the norms, nearly equal across channels in BERT's
family, are fitted by least squares). The attention heads and head units that contribute most on those texts are kept.

*Neurons.* A neuron adds its activation times its outgoing weights to the hidden state. The bias can add the mean of that,
so a removed neuron costs only its variation: the standard deviation of its activation times the norm of its outgoing
weights, in units of the hidden state. The neurons with the largest cost are kept.

Nothing here trains.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distill.errors import SettingsError
from distill.models.families import families_with, family_of, in_layer, layer_names
from distill.models.loading import rebuilt
from distill.models.recording import record_tokens
from distill.models.torch_classifier import TorchClassifier
from distill.texts import TextInput

SAMPLE_TEXTS = 512
"""Texts that directions and neurons are measured on, at most: about ten thousand tokens."""
_Observed = dict[str, tuple[Tensor, Tensor]]
"""What modules read and returned on the sample, by name: one row for each real token, in the head one for each text."""


def narrowed(classifier: TorchClassifier, hidden_size: int, texts: Sequence[TextInput], *, seed: int = 0) -> TorchClassifier:
    """Return a new classifier whose encoder has `hidden_size` channels; the given one is not changed.

    Heads keep their size, so there are fewer heads. Feed-forward layers keep their number of neurons.

    Args:
        classifier: A model of BERT's, RoBERTa's or ELECTRA's family.
        hidden_size: Channels of the new encoder, a multiple of the size of a head.
        texts: Texts to measure on; `SAMPLE_TEXTS` of them, drawn with the seed, are used.
        seed: For that draw, and for the rotation within the kept directions.

    Raises:
        SettingsError: `hidden_size` is not a multiple of the head size, or the family is not supported.
    """
    config = classifier.model.config
    if "hidden_size" not in family_of(config).supports:
        raise SettingsError(
            f"hidden_size works for the families {families_with('hidden_size')}; this is a {config.model_type} model"
        )
    if getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
        raise SettingsError("hidden_size does not work for a model with a factorised embedding")
    head_size = config.hidden_size // config.num_attention_heads
    if hidden_size % head_size or not 0 < hidden_size <= config.hidden_size:
        raise SettingsError(
            f"hidden_size must be a multiple of {head_size}, the size of one of the teacher's heads, and at most "
            f"{config.hidden_size}; got {hidden_size}"
        )
    if not texts:
        raise SettingsError("hidden_size needs texts to measure the teacher on, and there are none")
    order = np.random.default_rng(seed).permutation(len(texts))[:SAMPLE_TEXTS]
    observed = _observe(classifier, [texts[int(index)] for index in order])
    stream = torch.cat([observed[name][1] for name in _norm_names(classifier)])
    projection = _projection(stream, hidden_size, seed)
    narrow_config = copy.deepcopy(config)
    narrow_config.hidden_size = hidden_size
    narrow_config.num_attention_heads = hidden_size // head_size
    if hasattr(config, "embedding_size"):
        narrow_config.embedding_size = hidden_size
    weights = _narrow_weights(classifier, observed, projection, narrow_config.num_attention_heads)
    return rebuilt(classifier, config=narrow_config, weights=weights)


def _narrow_weights(classifier: TorchClassifier, observed: _Observed, projection: Tensor, num_heads: int) -> dict[str, Tensor]:
    config, base = classifier.model.config, classifier.model.base_model_prefix
    family = family_of(config)
    head_size = config.hidden_size // config.num_attention_heads
    weights = {name: tensor.detach().cpu().double() for name, tensor in classifier.model.state_dict().items()}
    narrow = {
        name: tensor @ projection
        for name, tensor in weights.items()
        if name.startswith(f"{base}.embeddings.") and tensor.ndim == 2
    }

    def project_inputs(name: str, kept: Tensor | slice = slice(None)) -> None:
        narrow[f"{name}.weight"] = weights[f"{name}.weight"][kept] @ projection
        narrow[f"{name}.bias"] = weights[f"{name}.bias"][kept]

    def project_outputs(name: str, weight: Tensor, bias: Tensor) -> None:
        narrow[f"{name}.weight"], narrow[f"{name}.bias"] = projection.T @ weight, projection.T @ bias

    for name in _norm_names(classifier):
        narrow[f"{name}.weight"], narrow[f"{name}.bias"] = fitted_norm(*observed[name], projection)
    for layer in layer_names(classifier.model):
        output, down = f"{layer}.{family.attention_output}", f"{layer}.{family.down}"
        read, _ = observed[output]
        kept = _kept_channels(read, weights[f"{output}.weight"], count=num_heads, group=head_size)
        for part in (family.query, family.key, family.value):
            project_inputs(f"{layer}.{part}", kept)
        project_outputs(
            output, *_without_inputs(weights[f"{output}.weight"], weights[f"{output}.bias"], read.mean(dim=0), kept)
        )
        project_inputs(f"{layer}.{family.up}")
        project_outputs(down, weights[f"{down}.weight"], weights[f"{down}.bias"])
    weight, bias = f"{family.head}.weight", f"{family.head}.bias"
    read, _ = observed[family.head]
    units = _kept_channels(read, weights[weight], count=projection.shape[1], group=1)
    project_inputs(family.pooler, units)
    narrow[weight], narrow[bias] = _without_inputs(weights[weight], weights[bias], read.mean(dim=0), units)
    return {name: tensor.float().contiguous() for name, tensor in narrow.items()}


def _projection(stream: Tensor, hidden_size: int, seed: int) -> Tensor:
    """Return orthonormal columns, shape (hidden, hidden_size), that span the strongest directions of the stream's rows.

    They are rotated within that subspace: the direction that a LayerNorm removes, in which all channels are equal, becomes
    the weakest one, and the rest is spread evenly over the channels.
    """
    _, directions = torch.linalg.eigh(stream.T @ stream)  # ascending
    strongest = directions.flip(1)[:, :hidden_size]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(hidden_size - 1, hidden_size - 1, generator=generator, dtype=torch.float64)
    rotation = torch.block_diag(torch.linalg.qr(drawn).Q, torch.ones(1, 1, dtype=torch.float64))
    # A Householder reflection maps the direction of equal channels onto the last, weakest one.
    axis = torch.full((hidden_size,), hidden_size**-0.5, dtype=torch.float64)
    axis[-1] -= 1
    axis = axis / axis.norm().clamp_min(1e-300)  # of one channel it is 0: nothing to reflect
    reflection = torch.eye(hidden_size, dtype=torch.float64) - 2 * torch.outer(axis, axis)
    return strongest @ rotation @ reflection


def fitted_norm(before: Tensor, after: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and shift, shape (hidden_size,) each, that fit a LayerNorm of the projected stream by least squares.

    Args:
        before: Input of the wide LayerNorm, shape (tokens, hidden).
        after: Its output, same shape.
        projection: Shape (hidden, hidden_size).
    """
    wanted, projected = after @ projection, before @ projection
    centred = projected - projected.mean(dim=1, keepdim=True)
    normalised = centred / centred.pow(2).mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
    mean_in, mean_out = normalised.mean(dim=0), wanted.mean(dim=0)
    covariance = ((normalised - mean_in) * (wanted - mean_out)).mean(dim=0)
    variance = (normalised - mean_in).pow(2).mean(dim=0)
    # A channel that is constant on the sample does not determine its scale: the shift alone reproduces it.
    scale = torch.where(variance > 1e-12, covariance / variance.clamp_min(1e-12), 0.0)
    return scale, mean_out - scale * mean_in


def _kept_channels(read: Tensor, weight: Tensor, *, count: int, group: int) -> Tensor:
    """Return the inputs of a linear layer that contribute most, in groups, ascending.

    Args:
        read: Input of the linear layer, shape (rows, inputs).
        weight: Shape (outputs, inputs).
        count: Groups to keep.
        group: Number of adjacent inputs that are kept or dropped together: 1, or the size of a head.
    """
    spread = (read - read.mean(dim=0)).pow(2).mean(dim=0)
    energy = (spread * weight.pow(2).sum(dim=0)).reshape(-1, group).sum(dim=1)
    groups = torch.argsort(energy, descending=True, stable=True)[:count].sort().values
    return (groups[:, None] * group + torch.arange(group)).reshape(-1)


def _without_inputs(weight: Tensor, bias: Tensor, mean: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Drop all but the kept inputs of a linear layer; its bias takes over what the others added on the mean, in fp64."""
    dropped = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    dropped[kept] = False
    return weight[:, kept], bias + (weight[:, dropped].double() @ mean[dropped]).to(bias.dtype)


def _observe(classifier: TorchClassifier, texts: Sequence[TextInput]) -> _Observed:
    family = family_of(classifier.model.config)
    seen: defaultdict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def record(name: str, before: Tensor, after: Tensor) -> None:
        seen[name].append((before.cpu().double(), after.cpu().double()))

    outputs = [f"{layer}.{family.attention_output}" for layer in layer_names(classifier.model)]
    names = [*_norm_names(classifier), *outputs, family.head]
    record_tokens(classifier, classifier.tokenizer.encode(texts), names, record)
    return {name: (torch.cat([read for read, _ in rows]), torch.cat([made for _, made in rows])) for name, rows in seen.items()}


def _norm_names(classifier: TorchClassifier) -> list[str]:
    """Return the names of the norms that write the residual stream, in the order they run."""
    model, family = classifier.model, family_of(classifier.model.config)
    in_layers = (f"{layer}.{part}" for layer in layer_names(model) for part in (family.attention_norm, family.norm))
    return [f"{model.base_model_prefix}.{family.embedding_norm}", *in_layers]


class Moments(NamedTuple):
    """Mean and standard deviation over tokens of the activation of each neuron, shape (neurons,) each."""

    mean: Tensor
    deviation: Tensor


def narrow_feed_forward(classifier: TorchClassifier, size: int, *, texts: Sequence[TextInput]) -> TorchClassifier:
    """Return the classifier with `size` neurons in the feed-forward of each layer.

    Args:
        classifier: A classifier whose feed-forward is two linear layers with an activation between.
        size: Neurons of each layer, at most the present number.
        texts: The transfer set; an even sample of it is run through the model.

    Raises:
        SettingsError: The layers have fewer neurons, there are no texts, or the feed-forward has unknown names.
    """
    layers = feed_forwards(classifier)
    weights = dict(classifier.model.state_dict())
    present = len(weights[f"{layers[0][0]}.bias"])
    if size > present:
        raise SettingsError(f"intermediate_size is {size}, but the layers have only {present} neurons")
    if size == present:
        return classifier
    if not texts:
        raise SettingsError("intermediate_size needs texts to choose neurons on, and there are none")
    moments = activation_moments(classifier, [down for _, down in layers], sample_of(texts))
    for up, down in layers:
        mean, deviation = moments[down]
        outgoing = weights[f"{down}.weight"]
        kept = (deviation * outgoing.double().norm(dim=0)).topk(size).indices.sort().values
        bias = weights[f"{down}.bias"]
        weights[f"{down}.weight"], weights[f"{down}.bias"] = _without_inputs(outgoing, bias, mean, kept)
        for kind in ("weight", "bias"):
            weights[f"{up}.{kind}"] = weights[f"{up}.{kind}"][kept]
    config = copy.deepcopy(classifier.model.config)
    setattr(config, family_of(config).intermediate_size, size)
    return rebuilt(classifier, config=config, weights=weights)


def feed_forwards(classifier: TorchClassifier) -> list[tuple[str, str]]:
    """Return the names of the two linear layers of each feed-forward, lowest layer first.

    Raises:
        SettingsError: The feed-forward has names that no known family uses.
    """
    family = family_of(classifier.model.config)
    places = (in_layer(name) for name, _ in classifier.model.named_modules())
    layers = [f"{place.layers}.{place.number}" for place in places if place is not None and place.part == family.up]
    if not layers:
        raise SettingsError(
            f"cannot find the feed-forward of a {classifier.model.config.model_type} model; leave out --intermediate-size"
        )
    return [(f"{layer}.{family.up}", f"{layer}.{family.down}") for layer in layers]


def sample_of(texts: Sequence[TextInput]) -> list[TextInput]:
    """Return at most `SAMPLE_TEXTS` of the texts, evenly spread."""
    count = min(len(texts), SAMPLE_TEXTS)
    return [texts[index * len(texts) // count] for index in range(count)]


def activation_moments(classifier: TorchClassifier, names: Sequence[str], texts: Sequence[TextInput]) -> dict[str, Moments]:
    """Run the texts and return the moments of the input of each of these linear layers; padding is not counted."""
    sums: dict[str, Tensor] = {}

    def record(name: str, activations: Tensor, _: Tensor) -> None:
        # in double precision: a variance is a small difference of large sums
        values = activations.double()
        count = torch.full_like(values[0], len(values))
        sums[name] = sums.get(name, 0) + torch.stack([count, values.sum(dim=0), (values**2).sum(dim=0)])

    record_tokens(classifier, sorted(classifier.tokenizer.encode(texts), key=len), names, record)
    moments = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        moments[name] = Moments(mean, (squares / count - mean**2).clamp(min=0).sqrt())
    return moments
