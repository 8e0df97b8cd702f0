"""Terms on attention: maps, and relations among queries, keys and values."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from distill.errors import SettingsError
from distill.losses.term import Seen, divergence_of_rows, log_attention, matched_layers, mean_over_tokens


def squared_distance_of_rows(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over heads and real rows of the squared distance of the probabilities of each row, shape (batch,).

    Args:
        student: Log-probabilities, shape (batch, heads, length, length).
        teacher: Same shape.
        mask: 1 where a token is real, shape (batch, length).
    """
    return mean_over_tokens((student.exp() - teacher.exp()).square().sum(dim=-1).mean(dim=1), mask)


class AttentionMaps(nn.Module):
    """Mean over layers of a distance between the rows of two attention maps.

    If student and teacher have different numbers of heads, the means over their heads are compared.
    """

    def __init__(self, distance: Callable[..., Tensor]) -> None:
        """Set the distance: `squared_distance_of_rows` or `divergence_of_rows`."""
        super().__init__()
        self.distance = distance

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        losses = []
        for pair in enumerate(matched_layers(len(seen.student.queries), len(seen.teacher.queries))):
            student, teacher = (
                log_attention(model.queries[layer], model.keys[layer], seen.mask, num_heads=model.num_heads)
                for model, layer in zip((seen.student, seen.teacher), pair, strict=True)
            )
            if seen.student.num_heads != seen.teacher.num_heads:
                student, teacher = _mean_of_heads(student), _mean_of_heads(teacher)
            losses.append(self.distance(student=student, teacher=teacher, mask=seen.mask))
        return torch.stack(losses).mean(dim=0)


def _mean_of_heads(log_probabilities: Tensor) -> Tensor:
    return log_probabilities.logsumexp(dim=1, keepdim=True) - math.log(log_probabilities.shape[1])


class Relations(nn.Module):
    """Sum over queries, keys and values A of the last layer of KL(teacher || student) of the rows of softmax(A Aᵀ / √d).

    Each is a mean over relation heads and the rows of real tokens (MiniLMv2, Wang et al., 2021).
    """

    def __init__(self, *, num_heads: int, student_width: int, teacher_width: int) -> None:
        """Set the number of relation heads.

        Raises:
            SettingsError: It does not divide both widths.
        """
        super().__init__()
        for whose, width in (("student's", student_width), ("teacher's", teacher_width)):
            if width % num_heads:
                raise SettingsError(
                    f"relation_heads is {num_heads}, which does not divide the {whose} width of {width}; "
                    "choose a common divisor with --relation-heads"
                )
        self.num_heads = num_heads

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,), in nats."""
        losses = []
        for kind in ("queries", "keys", "values"):
            last = (getattr(layers, kind)[-1] for layers in (seen.student, seen.teacher))
            student, teacher = (log_attention(states, states, seen.mask, num_heads=self.num_heads) for states in last)
            losses.append(divergence_of_rows(student=student, teacher=teacher, mask=seen.mask))
        return torch.stack(losses).sum(dim=0)
