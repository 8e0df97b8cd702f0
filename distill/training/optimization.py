"""The optimiser and its schedule: AdamW, a linear warm-up and a linear way down."""

from __future__ import annotations

import torch
from torch import nn


def adamw(*modules: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over all trained weights of the modules, without decay on biases, norms and embeddings.

    Decay would pull the vectors of words that the texts lack towards nothing.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                (kept if parameter.ndim < 2 or "embeddings" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    # fused: one pass over the weights instead of a dozen; the embedding table makes the plain one a third of a step
    fused = {parameter.device.type for parameter in (*decayed, *kept)} <= {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def rate_factor(step: int, *, total_steps: int, warmup_share: float) -> float:
    """Return the share of the peak rate at a step, from 0: up to 1 in the warm-up, then down to 0 after the last."""
    warmup = round(warmup_share * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return (total_steps - step) / max(1, total_steps - warmup)
