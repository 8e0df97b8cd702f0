"""What a model's layers make of a batch: hidden states, queries, keys and values; and which layer is compared with which.

Queries, keys and values are taken where the model computes them, whatever attention kernel it runs, so that training
keeps its fast one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import SettingsError

_PROJECTIONS = {
    **dict.fromkeys(("query", "q_lin"), "queries"),
    **dict.fromkeys(("key", "k_lin"), "keys"),
    **dict.fromkeys(("value", "v_lin"), "values"),
}
# Others rotate their queries, add positions to the scores, or compute all three in one product.
ATTENTION_FAMILIES = ("albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Model types whose attention is softmax(Q Kᵀ / √d) of projections known by name."""


@dataclass(frozen=True)
class Layers:
    """What the layers of one model made of a batch, first layer first, in fp32.

    Attributes:
        hidden: Output of each layer, shape (batch, length, width) each; the embeddings are not among them.
        queries: Of each layer, shape (batch, length, width) each, all heads side by side.
        keys: Likewise.
        values: Likewise.
        num_heads: Into how many heads the last three are cut.
    """

    hidden: tuple[Tensor, ...] = ()
    queries: tuple[Tensor, ...] = ()
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    num_heads: int = 1


def matched_layers(num_student_layers: int, num_teacher_layers: int) -> tuple[int, ...]:
    """Return which teacher layer (from 0) each student layer is compared with.

    The teacher's layers are cut into as many equal segments as the student has layers, and each is compared with the
    last of its segment: 1, 3, 5 of six. It is the rule "spread" by which students are made, and the rule "skip" of
    patient distillation (Sun et al., 2019).
    """
    ends = (round((layer + 1) * num_teacher_layers / num_student_layers) for layer in range(num_student_layers))
    return tuple(max(0, end - 1) for end in ends)


def hidden_pairs(student: Layers, teacher: Layers) -> list[tuple[Tensor, Tensor]]:
    """Return (student's hidden state, the teacher's it is compared with) of each student layer, first layer first."""
    matched = matched_layers(len(student.hidden), len(teacher.hidden))
    return [(state, teacher.hidden[layer]) for state, layer in zip(student.hidden, matched, strict=True)]


def run_reading(
    model: nn.Module, inputs: dict[str, Tensor], *, hidden: bool = False, attention: bool = False
) -> tuple[Tensor, Layers]:
    """Run a sequence classifier and return its logits and what was asked for of its layers.

    Args:
        model: Its config says how many heads it has.
        inputs: Its arguments by name.
        hidden: Take the hidden states.
        attention: Take queries, keys and values.

    Raises:
        SettingsError: The model does not have them, or in a form that is not known.
    """
    if not (hidden or attention):
        return model(**inputs).logits, Layers()
    taken: dict[str, list[Tensor]] = {"queries": [], "keys": [], "values": []}
    with _taking(model, taken) if attention else _nothing():
        output = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
    states = _hidden_of(output) if hidden else ()
    return output.logits, Layers(
        hidden=tuple(state.float() for state in states),
        num_heads=int(getattr(_config_of(model), "num_attention_heads", 1)),
        **{name: tuple(tensor.float() for tensor in tensors) for name, tensors in taken.items()},
    )


@dataclass(frozen=True)
class FrozenTeacher:
    """A teacher that runs beside the student in every step; no module, so that it is never trained or saved with one."""

    model: nn.Module

    def layers(self, inputs: dict[str, Tensor], *, hidden: bool, attention: bool) -> Layers:
        """Return what its layers make of the batch, without dropout and without gradients."""
        was_training = self.model.training
        self.model.eval()
        try:
            # no_grad and not inference_mode: the student's backward pass keeps these tensors
            with torch.no_grad():
                return run_reading(self.model, inputs, hidden=hidden, attention=attention)[1]
        finally:
            self.model.train(was_training)


def require_readable(model: nn.Module, *, attention: bool) -> None:
    """Refuse a model without layers, or whose attention is not of a known form where that is read."""
    config = _config_of(model)
    family = getattr(config, "model_type", type(model).__name__)
    if not getattr(config, "num_hidden_layers", 0):
        raise SettingsError(f"a {family} model has no layers whose states could be compared; use losses on logits")
    if attention and family not in ATTENTION_FAMILIES:
        raise SettingsError(
            f"attention and relations are read from the families {', '.join(ATTENTION_FAMILIES)}, not from {family}; "
            "use losses on logits or hidden states"
        )


def _hidden_of(output: Any) -> tuple[Tensor, ...]:
    if output.hidden_states is None:
        raise SettingsError("this model does not give its hidden states; use losses on logits")
    return tuple(output.hidden_states[1:])  # the first is the embeddings


def _config_of(model: nn.Module) -> Any:
    # a wrapper for several processes holds the model as its `module`
    return getattr(getattr(model, "module", model), "config", None)


@contextmanager
def _taking(model: nn.Module, taken: dict[str, list[Tensor]]) -> Iterator[None]:
    """Note what the projections give inside the block, in the order they run (ALBERT runs one layer many times)."""
    handles = []
    for name, module in model.named_modules():
        kind = _PROJECTIONS.get(name.rpartition(".")[2])
        if kind is not None and isinstance(module, nn.Linear):
            note = taken[kind].append
            handles.append(module.register_forward_hook(lambda _module, _inputs, output, note=note: note(output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _nothing() -> Iterator[None]:
    yield
