"""Choosing rows so that each label keeps its share: by counts where a text has one label, iteratively where it has several.

Knows no text and no file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified_rows(label_ids: NDArray[np.int64], *, num_labels: int, count: int, seed: int) -> list[int]:
    """Choose `count` rows, each label in proportion; return them in order.

    Args:
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        num_labels: Number of labels.
        count: Rows to choose, at most as many as there are.
        seed: Decides which.
    """
    generator = np.random.default_rng(seed)
    if label_ids.ndim == 2:
        return _iteratively(label_ids.astype(bool), count, generator)
    shares = _proportional(np.bincount(label_ids, minlength=num_labels), count)
    chosen: list[int] = []
    for label_id, share in enumerate(shares):
        rows = np.flatnonzero(label_ids == label_id)
        chosen += generator.permutation(rows)[:share].tolist()
    return sorted(chosen)


def _proportional(counts: NDArray[np.int64], total: int) -> list[int]:
    """Share `total` among labels by largest remainder; each label keeps and gives at least one where it can."""
    exact = counts * total / counts.sum()
    shares = np.floor(exact).astype(int)
    for index in np.argsort(shares - exact, kind="stable")[: total - int(shares.sum())]:
        shares[index] += 1
    for index in np.flatnonzero((shares == 0) & (counts > 1)):
        largest = int(np.argmax(shares))
        if shares[largest] > 1:
            shares[largest] -= 1
            shares[index] += 1
    for index in np.flatnonzero((shares >= counts) & (counts > 1)):
        spare = np.flatnonzero(counts - shares > 1)
        if len(spare):
            shares[index] -= 1
            shares[spare[0]] += 1
    return [int(share) for share in shares]


def _iteratively(has: NDArray[np.bool_], count: int, generator: np.random.Generator) -> list[int]:
    """Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011) into two parts, the first of exactly `count` rows.

    The rarest label is dealt out first, each of its rows to the part that lacks it most; rows without a label come last.
    """
    has = np.hstack([has, ~has.any(axis=1, keepdims=True)])
    rows, counts = len(has), has.sum(axis=0)
    # A label seen twice or more stands in both parts.
    wanted = np.where(counts > 1, np.clip(counts * count / rows, 1, counts - 1), counts * count / rows)
    lacks = np.stack([wanted, counts - wanted])
    room = [count, rows - count]
    order = generator.permutation(rows)
    open_rows = np.ones(rows, dtype=bool)
    chosen: list[int] = []
    while open_rows.any():
        left = has[open_rows].sum(axis=0)
        label = int(np.argmin(np.where(left > 0, left, rows + 1)))
        for row in order[(open_rows & has[:, label])[order]]:
            part = _part_for(lacks[:, label].tolist(), room)
            if part == 0:
                chosen.append(int(row))
            lacks[part, has[row]] -= 1
            room[part] -= 1
            open_rows[row] = False
    return sorted(chosen)


def _part_for(lacks: list[float], room: list[int]) -> int:
    """Return the part (0 or 1) that lacks a label more, the emptier one of equals; a full part takes nothing."""
    if 0 in room:
        return room.index(max(room))
    return 0 if (lacks[0], room[0]) > (lacks[1], room[1]) else 1
