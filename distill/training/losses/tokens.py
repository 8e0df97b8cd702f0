"""Sums over tokens that padding cannot change. Shared by the terms that compare token by token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def mean_over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real tokens of each text, shape (batch,).

    Args:
        values: Shape (batch, length).
        mask: 1 where a token is real, shape (batch, length).
    """
    real = mask.to(values.dtype)
    return (values * real).sum(dim=1) / real.sum(dim=1)


def split_heads(states: Tensor, num_heads: int) -> Tensor:
    """Return (batch, length, width) as (batch, heads, length, width / heads)."""
    batch, length, width = states.shape
    return states.view(batch, length, num_heads, width // num_heads).transpose(1, 2)


def log_attention(left: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    """Return the log of softmax(left rightᵀ / √d) over the real tokens.

    Args:
        left: Shape (batch, heads, length, d); each of its tokens has a row.
        right: Same shape; its tokens are the columns.
        mask: 1 where a token is real, shape (batch, length).

    Returns:
        Shape (batch, heads, length, length). Columns of padding hold so low a number that their probability is 0,
        but a finite one: 0 times infinity would be no number.
    """
    scores = left @ right.transpose(-1, -2) / left.shape[-1] ** 0.5
    lowest = torch.finfo(scores.dtype).min / 2
    return functional.log_softmax(scores.masked_fill(mask[:, None, None, :] == 0, lowest), dim=-1)


def divergence_of_rows(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return KL(teacher || student) of each row, its mean over heads and real rows: shape (batch,), in nats.

    Args:
        student: Log-probabilities, shape (batch, heads, length, length).
        teacher: Same shape.
        mask: 1 where a token is real, shape (batch, length).
    """
    rows = (teacher.exp() * (teacher - student)).sum(dim=-1)
    return mean_over_tokens(rows.mean(dim=1), mask)
