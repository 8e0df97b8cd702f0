"""Which device to compute on, and how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from distill.cpus import available_cpus
from distill.errors import SettingsError
from distill.settings import Device


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


def on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move a model in place and return it."""
    nn.Module.to(model, device)  # transformers' own `to` is typed for nothing but itself
    return model


@contextmanager
def using_threads(count: int | None = None) -> Iterator[None]:
    """Compute with `count` threads inside the block; None takes what this process may really use."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or available_cpus())
    try:
        yield
    finally:
        torch.set_num_threads(before)
