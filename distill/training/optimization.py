"""The optimiser and its schedule: AdamW, a linear warm-up and a linear way down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

RateShares = Callable[[str, int], float]
"""The share of the learning rate that a weight has, by its name and the number of the epoch, from 0."""


def whole_rate(name: str, epoch: int) -> float:  # noqa: ARG001
    """Return 1: every weight learns at the same rate, always."""
    return 1.0


def adamw(
    *modules: nn.Module, learning_rate: float, weight_decay: float, rates: RateShares = whole_rate, epochs: int = 1
) -> torch.optim.AdamW:
    """Return AdamW over all trained weights of the modules, without decay on biases, norms and embeddings.

    Decay would pull the vectors of words that the texts lack towards nothing. Each group says under `shares` what share of
    the rate it has in each epoch.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    shares: dict[nn.Parameter, tuple[float, ...]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                (kept if parameter.ndim < 2 or "embeddings" in name else decayed).append(parameter)
                shares[parameter] = tuple(rates(name, epoch) for epoch in range(epochs))
    groups: list[dict[str, Any]] = [
        {"params": [one for one in members if shares[one] == share], "weight_decay": decay, "shares": share}
        for members, decay in ((decayed, weight_decay), (kept, 0.0))
        for share in dict.fromkeys(shares[one] for one in members)
    ]
    # fused: one pass over the weights instead of a dozen; the embedding table makes the plain one a third of a step
    fused = {parameter.device.type for parameter in (*decayed, *kept)} <= {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def rate_factor(step: int, *, total_steps: int, warmup_share: float) -> float:
    """Return the share of the peak rate at a step, from 0: up to 1 in the warm-up, then down to 0 after the last."""
    warmup = round(warmup_share * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return (total_steps - step) / max(1, total_steps - warmup)
