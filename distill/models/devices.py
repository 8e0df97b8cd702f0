"""How a model computes: device, dtype, threads, attention kernel, evaluation mode."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from distill.errors import SettingsError
from distill.machine import available_cpus, multiplies_bf16_faster
from distill.models.families import has_dropout
from distill.settings import Device, MixedPrecision

Compute = Literal["no", "bf16"]
"""A `mixed_precision` without `auto`: "no" computes everything in fp32."""


def chosen_device(device: Device) -> torch.device:
    """Return the requested device; `auto` is the first available of cuda, mps and cpu.

    Raises:
        SettingsError: This machine does not have the device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, available in present.items() if available))
    if not present[device]:
        raise SettingsError(f"this machine has no {device!r} device; use --device auto or cpu")
    return torch.device(device)


def chosen_mixed_precision(mixed_precision: MixedPrecision, device: torch.device) -> Compute:
    """Return the setting, or the meaning of `auto` on this device.

    Raises:
        SettingsError: The setting is bf16 and the device does not support it.
    """
    if device.type == "cuda":
        supported = fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported, fast = device.type == "cpu", device.type == "cpu" and multiplies_bf16_faster()
    if mixed_precision == "auto":
        return "bf16" if fast else "no"
    if mixed_precision == "bf16" and not supported:
        raise SettingsError(f"the {device.type} device here does not support bf16; use --mixed-precision auto or no")
    return mixed_precision


def computing_in(compute: Compute, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which forward passes compute in this dtype; weights stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute == "bf16")


def on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move a model to a device in place and return it."""
    nn.Module.to(model, device)  # transformers types its own `to` too narrowly
    return model


@contextmanager
def using_threads(count: int | None = None) -> Iterator[None]:
    """Set the number of torch threads inside the block; None is this process's share of the CPUs it may use."""
    before = torch.get_num_threads()
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(count or max(1, available_cpus() // local_processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode inside the block, then back in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


LONGEST_QUICK_TEXT = 128
"""Tokens up to which plain attention was faster; at 256 its score matrices cost more than it saves over the fused kernel."""


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Compute attention without a fused kernel inside the block, then with the model's own again."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def quick_attention(model: PreTrainedModel, *, compute: Compute, longest: int) -> AbstractContextManager[None]:
    """Return a context with plain attention where it trains faster: bf16 on a CPU, no dropout, short texts.

    The CPU's fused kernel repeats its matrix multiplications for the backward pass, outside the matrix unit: at 26 tokens
    a training step of a 2-layer student took 79 ms with it and 44 ms without. In fp32 both take the same time.

    Args:
        model: Has its own kernel again after the block.
        compute: Dtype of the training.
        longest: Tokens of the longest text.
    """
    on_cpu_in_bf16 = compute == "bf16" and model.device.type == "cpu"
    fused = model.config._attn_implementation == "sdpa"
    quick = fused and on_cpu_in_bf16 and longest <= LONGEST_QUICK_TEXT and not has_dropout(model)
    return eager_attention(model) if quick else nullcontext()
