"""A set of labelled texts and the rules that keep it clean: folding, merging, stratified cuts.

Pure values; reads no file.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distill.data.strata import stratified_rows
from distill.errors import DatasetError
from distill.labels import ProblemType, indicator


@dataclass(frozen=True)
class Dataset:
    """Texts with labels.

    Attributes:
        texts: One string each.
        label_ids: Class ids, shape (texts,); or, where a text may have several labels or none, zeros and ones, shape
            (texts, labels).
        labels: Label names, in order.
        source: Where they came from, for messages.
        notes: What was dropped, merged or cut on the way here, in words.
    """

    texts: tuple[str, ...]
    label_ids: NDArray[np.int64]
    labels: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.label_ids):
            raise DatasetError(f"{self.source}: {len(self.texts)} texts and {len(self.label_ids)} labels")
        if self.label_ids.ndim == 2 and self.label_ids.shape[1] != len(self.labels):
            raise DatasetError(f"{self.source}: {self.label_ids.shape[1]} columns of labels and {len(self.labels)} label names")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def counts(self) -> dict[str, int]:
        """Texts per label, every label named."""
        return dict(zip(self.labels, indicator(self.label_ids, len(self.labels)).sum(axis=0).tolist(), strict=True))

    @property
    def problem_type(self) -> ProblemType:
        """Whether a text has one label or several, in Hugging Face's words."""
        return "single_label_classification" if self.label_ids.ndim == 1 else "multi_label_classification"

    def fingerprint(self) -> str:
        """Return a digest of the content: texts, their labels by name, and the order."""
        names = map(self.label_names, range(len(self)))
        # Several as a JSON list: no joining character could collide with one in a name.
        return fingerprint(self.texts, [name if isinstance(name, str) else json.dumps(sorted(name)) for name in names])

    def label_names(self, index: int) -> str | tuple[str, ...]:
        """Return the label of one text by name; where a text may have several, all of them."""
        if self.label_ids.ndim == 1:
            return self.labels[int(self.label_ids[index])]
        return tuple(self.labels[label] for label in np.flatnonzero(self.label_ids[index]))

    def take(self, indices: Sequence[int] | NDArray[np.int64], *note: str) -> Dataset:
        """Return the rows at `indices`, in that order, with notes added."""
        return replace(
            self,
            texts=tuple(self.texts[index] for index in indices),
            label_ids=self.label_ids[np.asarray(indices, dtype=np.int64)],
            notes=(*self.notes, *note),
        )


def fingerprint(texts: Sequence[str], labels: Sequence[str] = ()) -> str:
    """Return the sha256 of texts and labels; each is preceded by its length, so that no two lists collide."""
    digest = hashlib.sha256()
    for values in (texts, labels):
        digest.update(f"{len(values)};".encode())
        for value in values:
            content = value.encode()
            digest.update(f"{len(content)}:".encode())
            digest.update(content)
    return digest.hexdigest()


def fold(text: str) -> str:
    """Return the text without differences in case and white space; equal folds are the same text."""
    return " ".join(text.casefold().split())


def merge_duplicates(dataset: Dataset) -> Dataset:
    """Keep one of each text; a text that stands under different labels is dropped altogether."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(dataset.texts):
        rows_of[fold(text)].append(index)
    kept, contradicted = [], 0
    for rows in rows_of.values():
        if len({dataset.label_ids[row].tobytes() for row in rows}) == 1:
            kept.append(rows[0])
        else:
            contradicted += len(rows)
    merged = len(dataset) - len(kept) - contradicted
    notes = []
    if merged:
        notes.append(f"{dataset.source}: merged {merged} repeated texts")
    if contradicted:
        notes.append(f"{dataset.source}: dropped {contradicted} texts that stand under two labels")
    return dataset.take(sorted(kept), *notes) if notes else dataset


def without_texts_of(dataset: Dataset, other: Dataset) -> Dataset:
    """Drop the texts that also stand in `other`, which keeps them."""
    foreign = {fold(text) for text in other.texts}
    kept = [index for index, text in enumerate(dataset.texts) if fold(text) not in foreign]
    dropped = len(dataset) - len(kept)
    if not dropped:
        return dataset
    return dataset.take(kept, f"{dataset.source}: dropped {dropped} texts that also stand in {other.source}")


def split_off(dataset: Dataset, *, count: int, seed: int, name: str) -> tuple[Dataset, Dataset]:
    """Cut `count` texts off, each label in proportion; return (rest, cut).

    Args:
        dataset: Where to cut; every label needs at least two texts.
        count: Texts to cut off.
        seed: Decides which; the same seed cuts the same texts.
        name: What the part is for, for messages ("validation").

    Raises:
        DatasetError: A label is too rare, or the cut would leave either part empty.
    """
    require_usable(dataset)
    if not 0 < count < len(dataset):
        raise DatasetError(f"{dataset.source}: cannot cut {count} {name} texts from {len(dataset)}; add texts")
    cut = _stratified(dataset, count, seed)
    chosen = set(cut)
    rest = [index for index in range(len(dataset)) if index not in chosen]
    return dataset.take(rest), dataset.take(cut)


def limited(dataset: Dataset, limit: int | None, *, seed: int) -> Dataset:
    """Return at most `limit` texts, each label in proportion, and say so."""
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.take(_stratified(dataset, limit, seed), f"{dataset.source}: a sample of {limit} of {len(dataset)} texts")


def require_texts(dataset: Dataset, name: str) -> None:
    """Refuse a set without texts; what dropped the last of them is said.

    Args:
        dataset: What is left.
        name: What the part is for, for the message ("validation").
    """
    if not len(dataset):
        why = f" ({dataset.notes[-1]})" if dataset.notes else ""
        raise DatasetError(f"{dataset.source} holds no {name} text{why}; name a file that does", path=dataset.source)


def require_two_labels(dataset: Dataset) -> None:
    """Refuse training texts that all have one label."""
    require_texts(dataset, "training")
    present = [name for name, count in dataset.counts.items() if count]
    if len(present) < 2:
        seen = f"every text has the label {present[0]!r}" if present else "no text has a label"
        raise DatasetError(
            f"{dataset.source}: {seen}; a classifier needs two labels or more",
            path=dataset.source,
        )


def require_usable(dataset: Dataset) -> None:
    """Refuse a set from which nothing can be learnt and checked: no text, one label, or a label seen once."""
    require_two_labels(dataset)
    rare = [name for name, count in dataset.counts.items() if count == 1]
    if rare:
        raise DatasetError(
            f"{dataset.source}: label {rare[0]!r} is seen once; each label needs two texts or more, one to learn from "
            "and one to check on: add texts of it or take it out",
            path=dataset.source,
        )


def _stratified(dataset: Dataset, count: int, seed: int) -> list[int]:
    return stratified_rows(dataset.label_ids, num_labels=len(dataset.labels), count=count, seed=seed)
