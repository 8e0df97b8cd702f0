"""A narrower student: the teacher's residual stream projected onto the directions that carry most of it.

Post-norm encoders such as BERT keep one stream of `hidden_size` channels that every block reads and writes. The stream's
second moment over real texts is diagonalised and its strongest directions are kept (the idea of SliceGPT, Ashkboos et
al., 2024, which needs RMSNorm; here the norms' scales, nearly equal across channels in BERT's family, are fitted anew by
least squares). Whole heads and head units go by what they contribute on those texts, and the mean of what is left out
moves into the bias behind it. Knows weights and texts; trains nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from distill.errors import SettingsError
from distill.models.devices import on_device
from distill.models.loading import blank_model
from distill.models.torch_classifier import TorchClassifier

SAMPLE_TEXTS = 512
"""Texts that the directions are measured on: some ten thousand tokens for a few hundred directions."""

_HEAD_OF_FAMILY = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "electra": ("classifier.dense", "classifier.out_proj"),
}
_TABLE = re.compile(r"\.embeddings\.\w+_embeddings\.weight$")
_LAYER_OF_OUTPUT = re.compile(r"(?<!\.attention)\.output\.dense\.weight$")


@dataclass
class _Seen:
    """What went through a model's modules on the sample: one row per real token.

    Attributes:
        norms: Input and output of each LayerNorm, by name, shapes (tokens, hidden).
        heads: What each attention's output product reads, by name, shape (tokens, hidden).
        units: What the last product reads, shape (texts, hidden).
    """

    norms: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    units: Tensor = field(default_factory=lambda: torch.empty(0))


def narrowed(classifier: TorchClassifier, hidden_size: int, texts: Sequence[str], *, seed: int = 0) -> TorchClassifier:
    """Return a new classifier whose encoder is `hidden_size` wide; the given one stays as it is.

    Heads keep their size, so there are fewer of them. The feed-forward layers keep their number of units.

    Args:
        classifier: A model of the families bert, roberta or electra.
        hidden_size: Channels of the new encoder, a multiple of the size of a head.
        texts: What the directions are measured on; the first `SAMPLE_TEXTS` of a seeded draw are used.
        seed: Of that draw and of the rotation within the kept directions.

    Raises:
        SettingsError: The width does not fit the heads, or the family is not known.
    """
    config = classifier.model.config
    if config.model_type not in _HEAD_OF_FAMILY:
        known = ", ".join(_HEAD_OF_FAMILY)
        raise SettingsError(f"hidden_size works for the families {known}; this is a {config.model_type} model")
    if getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
        raise SettingsError("hidden_size does not work for a model whose embedding is already factorised")
    head_size = config.hidden_size // config.num_attention_heads
    if hidden_size % head_size or not 0 < hidden_size <= config.hidden_size:
        raise SettingsError(
            f"hidden_size must be a multiple of {head_size}, the size of one of the teacher's heads, and at most "
            f"{config.hidden_size}; got {hidden_size}"
        )
    if not texts:
        raise SettingsError("a narrower student needs texts to measure its teacher on, and there are none")
    seen = _observe(classifier, _sample(texts, seed))
    projection = _projection(seen, hidden_size, seed)
    narrow_config = copy.deepcopy(config)
    narrow_config.hidden_size = hidden_size
    narrow_config.num_attention_heads = hidden_size // head_size
    if hasattr(config, "embedding_size"):
        narrow_config.embedding_size = hidden_size
    model = blank_model(narrow_config)
    weights = _narrow_weights(classifier, seen, projection, narrow_config.num_attention_heads)
    model.load_state_dict(weights, strict=True)  # strict: no weight of the student may stay random
    return replace(classifier, model=on_device(model.eval(), classifier.model.device))


def _narrow_weights(classifier: TorchClassifier, seen: _Seen, projection: Tensor, num_heads: int) -> dict[str, Tensor]:
    config = classifier.model.config
    head_size = config.hidden_size // config.num_attention_heads
    dense, out = _HEAD_OF_FAMILY[config.model_type]
    weights = {name: tensor.detach().cpu().double() for name, tensor in classifier.model.state_dict().items()}
    narrow: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if _TABLE.search(name):
            narrow[name] = tensor @ projection
    for name in seen.norms:
        narrow[f"{name}.weight"], narrow[f"{name}.bias"] = fitted_norm(*seen.norms[name], projection)
    for name, read in seen.heads.items():
        kept = _kept_channels(read, weights[f"{name}.weight"], count=num_heads, group=head_size)
        attention = name.removesuffix(".output.dense")
        for part in ("query", "key", "value"):
            narrow[f"{attention}.self.{part}.weight"] = weights[f"{attention}.self.{part}.weight"][kept] @ projection
            narrow[f"{attention}.self.{part}.bias"] = weights[f"{attention}.self.{part}.bias"][kept]
        weight, bias = _without_inputs(weights[f"{name}.weight"], weights[f"{name}.bias"], read, kept)
        narrow[f"{name}.weight"], narrow[f"{name}.bias"] = projection.T @ weight, projection.T @ bias
    units = _kept_channels(seen.units, weights[f"{out}.weight"], count=projection.shape[1], group=1)
    narrow[f"{dense}.weight"] = weights[f"{dense}.weight"][units] @ projection
    narrow[f"{dense}.bias"] = weights[f"{dense}.bias"][units]
    narrow[f"{out}.weight"], narrow[f"{out}.bias"] = _without_inputs(
        weights[f"{out}.weight"], weights[f"{out}.bias"], seen.units, units
    )
    for layer in {_LAYER_OF_OUTPUT.sub("", name) for name in weights if _LAYER_OF_OUTPUT.search(name)}:
        narrow[f"{layer}.intermediate.dense.weight"] = weights[f"{layer}.intermediate.dense.weight"] @ projection
        narrow[f"{layer}.intermediate.dense.bias"] = weights[f"{layer}.intermediate.dense.bias"]
        narrow[f"{layer}.output.dense.weight"] = projection.T @ weights[f"{layer}.output.dense.weight"]
        narrow[f"{layer}.output.dense.bias"] = projection.T @ weights[f"{layer}.output.dense.bias"]
    return {name: tensor.float().contiguous() for name, tensor in narrow.items()}


def _projection(seen: _Seen, hidden_size: int, seed: int) -> Tensor:
    """Return orthonormal columns, shape (hidden, hidden_size), that carry most of the stream.

    They are turned within the subspace so that the direction a LayerNorm removes, in which all channels are equal,
    falls on the weakest one, and so that the rest is spread evenly over the channels.
    """
    stream = torch.cat([after for _, after in seen.norms.values()])
    _, directions = torch.linalg.eigh(stream.T @ stream)  # ascending
    strongest = directions.flip(1)[:, :hidden_size]
    generator = torch.Generator().manual_seed(seed)
    turn = torch.eye(hidden_size, dtype=torch.float64)
    if hidden_size > 1:
        turn[:-1, :-1] = torch.linalg.qr(
            torch.randn(hidden_size - 1, hidden_size - 1, generator=generator, dtype=torch.float64)
        ).Q
    # Householder's reflection takes the direction of equal channels onto the last, weakest one.
    equal = torch.full((hidden_size,), hidden_size**-0.5, dtype=torch.float64)
    last = torch.zeros_like(equal)
    last[-1] = 1
    axis = equal - last
    reflection = torch.eye(hidden_size, dtype=torch.float64)
    if float(axis.norm()) > 0:
        axis = axis / axis.norm()
        reflection -= 2 * torch.outer(axis, axis)
    return strongest @ turn @ reflection


def fitted_norm(before: Tensor, after: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and shift, shape (hidden_size,), with which a LayerNorm of the projected stream comes nearest."""
    wanted = after @ projection
    projected = before @ projection
    centred = projected - projected.mean(dim=1, keepdim=True)
    normalised = centred / centred.pow(2).mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
    mean_in, mean_out = normalised.mean(dim=0), wanted.mean(dim=0)
    covariance = ((normalised - mean_in) * (wanted - mean_out)).mean(dim=0)
    variance = (normalised - mean_in).pow(2).mean(dim=0)
    # A channel that never moved on the sample tells nothing of its scale, and its shift is all there is to it.
    scale = torch.where(variance > 1e-12, covariance / variance.clamp_min(1e-12), 0.0)
    return scale, mean_out - scale * mean_in


def _kept_channels(read: Tensor, weight: Tensor, *, count: int, group: int) -> Tensor:
    """Return the inputs of a product that contribute most, in groups, ascending.

    Args:
        read: What the product reads, shape (rows, inputs).
        weight: Shape (outputs, inputs).
        count: Groups to keep.
        group: Neighbouring inputs that go together: 1, or the size of a head.
    """
    spread = (read - read.mean(dim=0)).pow(2).mean(dim=0)
    energy = (spread * weight.pow(2).sum(dim=0)).reshape(-1, group).sum(dim=1)
    groups = torch.argsort(energy, descending=True, stable=True)[:count].sort().values
    return (groups[:, None] * group + torch.arange(group)).reshape(-1)


def _without_inputs(weight: Tensor, bias: Tensor, read: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Drop all but some inputs of a product; what the others gave on average goes into its bias."""
    dropped = torch.ones(weight.shape[1], dtype=torch.bool)
    dropped[kept] = False
    return weight[:, kept], bias + weight[:, dropped] @ read.mean(dim=0)[dropped]


def _sample(texts: Sequence[str], seed: int) -> list[str]:
    order = np.random.default_rng(seed).permutation(len(texts))[:SAMPLE_TEXTS]
    return [texts[index] for index in order]


def _observe(classifier: TorchClassifier, texts: Sequence[str]) -> _Seen:
    model = classifier.model
    _, out = _HEAD_OF_FAMILY[model.config.model_type]
    norms: dict[str, list[tuple[Tensor, Tensor]]] = {}
    heads: dict[str, list[Tensor]] = {}
    units: list[Tensor] = []
    mask = torch.empty(0, dtype=torch.bool)

    def on_norm(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        norms.setdefault(name, []).append((inputs[0][mask].cpu().double(), output[mask].cpu().double()))

    def on_heads(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        heads.setdefault(name, []).append(inputs[0][mask].cpu().double())

    def on_out(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        units.append(inputs[0].cpu().double())

    hooks: dict[str, Callable[..., None]] = {}
    for name, _ in model.named_modules():
        if name.endswith(".LayerNorm"):
            hooks[name] = on_norm
        elif name.endswith(".attention.output.dense"):
            hooks[name] = on_heads
        elif name == out:
            hooks[name] = on_out
    rows = classifier.tokenizer.encode(texts)
    was_training = model.training
    model.eval()
    try:
        with _hooked(model, hooks), torch.inference_mode():
            for start in range(0, len(rows), 32):
                padded = classifier.tokenizer.pad(rows[start : start + 32])
                inputs = {key: torch.from_numpy(values).to(model.device) for key, values in padded._asdict().items()}
                mask = inputs["attention_mask"].bool()
                model(**inputs)
    finally:
        model.train(was_training)
    return _Seen(
        norms={name: (torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])) for name, parts in norms.items()},
        heads={name: torch.cat(parts) for name, parts in heads.items()},
        units=torch.cat(units),
    )


@contextmanager
def _hooked(model: nn.Module, hooks: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(partial(hook, name)) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
