"""Which attention kernel a model trains with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from distill.training.devices import Compute
from distill.training.dropout import has_dropout

LONGEST_QUICK_TEXT = 128
"""Tokens up to which plain attention was faster; at 256 its score matrices cost more than the kernel saves."""


@contextmanager
def quick_attention(model: PreTrainedModel, *, compute: Compute, longest: int) -> Iterator[None]:
    """Train with plain attention inside the block where that is faster: bf16 on a CPU, no dropout, short texts.

    The CPU's fused kernel recomputes its products for the backward pass, outside the matrix unit: at 26 tokens a
    training step of a 2-layer student took 79 ms with it and 44 ms without. In fp32 the two are alike.

    Args:
        model: Left with the kernel it came with.
        compute: Numbers it will train in.
        longest: Tokens of the longest text.
    """
    before = model.config._attn_implementation
    quick = before == "sdpa" and compute == "bf16" and model.device.type == "cpu" and longest <= LONGEST_QUICK_TEXT
    if not quick or has_dropout(model):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
