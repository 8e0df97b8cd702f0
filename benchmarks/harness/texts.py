"""The texts that the training scenarios learn from and are measured on; read the same way by every process."""

from __future__ import annotations

from collections.abc import Sequence

from distill.data import Dataset, Splits, load_splits, read_texts, texts_not_in
from distill.settings import DataSettings
from distill.texts import joined


def task_texts(data: DataSettings, unlabeled: Sequence[str]) -> tuple[Splits, tuple[str, ...]]:
    """Return the splits of a task, and the texts of other sources that are in none of them."""
    splits = load_splits(data)
    held_out = [part for part in (splits.train, splits.validation, splits.test) if part is not None]
    return splits, tuple(texts_not_in((joined(text) for source in unlabeled for text in read_texts(source, data)), held_out))


def measured_on(splits: Splits) -> Dataset:
    """Return the test texts, or the validation texts of a task that came without any."""
    return splits.validation if splits.test is None else splits.test
