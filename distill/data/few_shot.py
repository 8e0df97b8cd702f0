"""A few labelled texts of a class, drawn from many, as somebody has who labels by hand."""

from __future__ import annotations

import numpy as np

from distill.data.dataset import Dataset
from distill.data.strata import stratified_rows
from distill.errors import DatasetError


def few_shot(dataset: Dataset, *, shots: int, seed: int) -> tuple[Dataset, Dataset]:
    """Return texts to learn from and to choose on, `shots` of each class in all, a fifth of them for the second.

    Args:
        dataset: Labelled texts to draw from; where a text may have several labels, `shots` times the labels are drawn.
        shots: Texts of each class, 2 or more.
        seed: Decides which.

    Raises:
        DatasetError: A class has fewer.
    """
    held_out = max(1, shots // 5)
    num_labels = len(dataset.labels)
    if dataset.label_ids.ndim == 2:
        count = shots * num_labels
        if count > len(dataset):
            raise DatasetError(f"{dataset.source}: {count} texts are wanted, there are {len(dataset)}; lower --shots")
        drawn = dataset.take(stratified_rows(dataset.label_ids, num_labels=num_labels, count=count, seed=seed))
        cut = set(stratified_rows(drawn.label_ids, num_labels=num_labels, count=held_out * num_labels, seed=seed))
        return drawn.take([row for row in range(count) if row not in cut]), drawn.take(sorted(cut))
    generator = np.random.default_rng(seed)
    learnt: list[int] = []
    chosen: list[int] = []
    for label, name in enumerate(dataset.labels):
        rows = np.flatnonzero(dataset.label_ids == label)
        if len(rows) < shots:
            raise DatasetError(f"{dataset.source}: label {name!r} has {len(rows)} texts, {shots} are wanted; lower --shots")
        picked = generator.permutation(rows)[:shots].tolist()
        chosen += picked[:held_out]
        learnt += picked[held_out:]
    return dataset.take(sorted(learnt)), dataset.take(sorted(chosen))
