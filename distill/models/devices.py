"""Which device to compute on, in which numbers, and how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from distill.errors import SettingsError
from distill.machine import available_cpus, multiplies_bf16_faster
from distill.settings import Device, MixedPrecision

Compute = Literal["no", "bf16"]
"""A `mixed_precision` that is decided: "no" computes all in fp32."""


def chosen_device(device: Device) -> torch.device:
    """Return the device asked for; auto takes cuda, then mps, then cpu.

    Raises:
        SettingsError: It was asked for by name and is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, there in present.items() if there))
    if not present[device]:
        raise SettingsError(f"device {device!r} is not on this machine; use --device auto or cpu")
    return torch.device(device)


def chosen_mixed_precision(mixed_precision: MixedPrecision, device: torch.device) -> Compute:
    """Return the setting, or what `auto` means on this device.

    Raises:
        SettingsError: bf16 was asked for and the device has none.
    """
    if device.type == "cuda":
        there = fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        there, fast = device.type == "cpu", device.type == "cpu" and multiplies_bf16_faster()
    if mixed_precision == "auto":
        return "bf16" if fast else "no"
    if mixed_precision == "bf16" and not there:
        raise SettingsError(f"the {device.type} device here does not compute in bf16; use --mixed-precision auto or no")
    return mixed_precision


def computing_in(compute: Compute, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which forward passes compute so; weights stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute == "bf16")


def on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move a model in place and return it."""
    nn.Module.to(model, device)  # transformers' own `to` is typed for nothing but itself
    return model


@contextmanager
def using_threads(count: int | None = None) -> Iterator[None]:
    """Compute with `count` threads inside the block; None takes this process's part of what may really be used."""
    before = torch.get_num_threads()
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(count or max(1, available_cpus() // local_processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)
