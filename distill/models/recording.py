"""What a model computes inside: hooks on named modules, and the states of its layers that losses compare.

Queries, keys and values are recorded where the model computes them, whatever attention kernel it runs, so that training
keeps the fast kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from distill.errors import SettingsError
from distill.models.devices import evaluating
from distill.models.families import families_with, family_of
from distill.models.torch_classifier import TorchClassifier

ROWS_AT_ONCE = 32

Key = TypeVar("Key", bound=Hashable)


@contextmanager
def recording(modules: Mapping[Key, nn.Module], record: Callable[[Key, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `record(key, input, output)` after each forward pass of these modules inside the block, in the order they run.

    Args:
        modules: By a key of the caller's choice.
        record: Receives the module's first argument and its result.
    """
    with ExitStack() as hooks:
        for key, module in modules.items():
            hooks.enter_context(module.register_forward_hook(lambda _, inputs, output, key=key: record(key, inputs[0], output)))
        yield


def record_tokens(
    classifier: TorchClassifier,
    rows: Sequence[np.ndarray],
    names: Sequence[str],
    record: Callable[[str, Tensor, Tensor], None],
) -> None:
    """Run token ids through a model in evaluation mode and record what some of its modules read and return.

    Args:
        classifier: Its model is left in the mode it was in.
        rows: Ids of each text; they are run in this order, 32 at a time.
        names: Modules to record.
        record: Receives a name, the input and the output, shape (tokens, width) each: real tokens only. A module of the head,
            which sees one token of each text, has one row for each text.
    """
    model = classifier.model
    mask = torch.empty(0)

    def without_padding(name: str, *values: Tensor) -> None:
        record(name, *(value[mask] if value.ndim == 3 else value for value in values))

    modules = {name: model.get_submodule(name) for name in names}
    with evaluating(model), torch.inference_mode(), recording(modules, without_padding):
        for start in range(0, len(rows), ROWS_AT_ONCE):
            inputs = classifier.tensors(classifier.tokenizer.pad(rows[start : start + ROWS_AT_ONCE]))
            mask = inputs["attention_mask"].bool()
            model(**inputs)


@dataclass(frozen=True)
class Layers:
    """States that the layers of one model computed for a batch, first layer first, in fp32.

    Attributes:
        hidden: Output of each layer, shape (batch, length, width) each; the embeddings are not included.
        queries: Of each layer, shape (batch, length, width) each, all heads side by side.
        keys: Likewise.
        values: Likewise.
        num_heads: Number of attention heads in the last three.
    """

    hidden: tuple[Tensor, ...] = ()
    queries: tuple[Tensor, ...] = ()
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    num_heads: int = 1


def run_with_layers(
    model: nn.Module, inputs: dict[str, Tensor], *, hidden: bool = False, attention: bool = False
) -> tuple[Tensor, Layers]:
    """Run a sequence classifier; return its logits and the requested states of its layers.

    Args:
        model: Its config holds the number of heads.
        inputs: Its arguments by name.
        hidden: Return the hidden states.
        attention: Return queries, keys and values.

    Raises:
        SettingsError: The model returns no hidden states.
    """
    config = _config_of(model)
    taken: dict[str, list[Tensor]] = {"queries": [], "keys": [], "values": []}
    projections: dict[tuple[str, str], nn.Module] = {}
    if attention:
        family = family_of(config)
        parts = {"queries": family.query, "keys": family.key, "values": family.value}
        projections = {
            (kind, name): module
            for name, module in model.named_modules()
            for kind, part in parts.items()
            if name.endswith(f".{part}")
        }
    # one list for each kind, in the order the modules run: ALBERT runs one module once for each layer
    with recording(projections, lambda key, _, output: taken[key[0]].append(output.float())):
        output = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
    if hidden and output.hidden_states is None:
        raise SettingsError("this model does not return its hidden states; use losses on logits")
    return output.logits, Layers(
        hidden=tuple(state.float() for state in output.hidden_states[1:]) if hidden else (),  # the first is the embeddings
        num_heads=int(getattr(config, "num_attention_heads", 1)),
        **{kind: tuple(tensors) for kind, tensors in taken.items()},
    )


def require_readable(model: nn.Module, *, attention: bool) -> None:
    """Raise `SettingsError` if the model has no layers, or if its attention is needed and its family does not support that."""
    config = _config_of(model)
    if not getattr(config, "num_hidden_layers", 0):
        raise SettingsError(f"a {config.model_type} model has no layers whose states could be compared; use losses on logits")
    if attention and "attention losses" not in family_of(config).supports:
        raise SettingsError(
            f"losses on attention and relations support the families {families_with('attention losses')}, not "
            f"{config.model_type}; use losses on logits or hidden states"
        )


def _config_of(model: nn.Module) -> Any:
    # a wrapper for several processes holds the model as its `module`
    return getattr(getattr(model, "module", model), "config", None)
