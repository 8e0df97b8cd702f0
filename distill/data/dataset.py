"""A set of labelled texts and the rules that keep it clean: folding, merging, stratified cuts.

Pure values; reads no file.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import overload

import numpy as np
from numpy.typing import NDArray

from distill.errors import DatasetError
from distill.labels import ProblemType, Task, task_of_labels


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
        has = self.task.indicator(self.label_ids, len(self.labels))
        return dict(zip(self.labels, has.sum(axis=0).tolist(), strict=True))

    @property
    def problem_type(self) -> ProblemType:
        """Whether a text has one label or several, in Hugging Face's words."""
        return self.task.problem_type

    @property
    def task(self) -> Task:
        """What a label of these texts means: one per text, or several."""
        return task_of_labels(self.label_ids)

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


_CHUNK_TEXTS = 8192


class SeenTexts:
    """A set of texts, equal where their folds are; it remembers digests, not texts."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Start with these texts seen."""
        self._sorted = np.empty(0, dtype=np.uint64)
        for _ in self.fresh(texts):
            pass

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, text: str) -> bool:
        return bool(self._known(_digests([text]))[0])

    def fresh(self, texts: Iterable[str]) -> Iterator[str]:
        """Yield those texts that are seen for the first time, in order, and count them as seen."""
        source = iter(texts)
        while chunk := list(islice(source, _CHUNK_TEXTS)):
            digests = _digests(chunk)
            _, first = np.unique(digests, return_index=True)
            new = np.sort(first[~self._known(digests[first])])
            self._sorted = np.sort(np.concatenate([self._sorted, digests[new]]), kind="stable")
            for index in new:
                yield chunk[index]

    def _known(self, digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not len(self._sorted):
            return np.zeros(len(digests), dtype=bool)
        nearest = np.minimum(np.searchsorted(self._sorted, digests), len(self._sorted) - 1)
        known: NDArray[np.bool_] = self._sorted[nearest] == digests
        return known


def texts_not_in(texts: Iterable[str], others: Iterable[Dataset]) -> tuple[str, ...]:
    """Return each of these texts once, without those that stand in `others`."""
    return tuple(SeenTexts(text for other in others for text in other.texts).fresh(texts))


class JoinedTexts(Sequence[str]):
    """Several sequences of texts, one after the other; a text is read from its sequence when it is asked for."""

    def __init__(self, *parts: Sequence[str]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self._parts[part][place - int(self._ends[part])]  # counted from the part's end: negative


def _digests(texts: list[str]) -> NDArray[np.uint64]:
    # surrogatepass: the tokenizer refuses a lone surrogate, and says which text has it
    folded = (fold(text).encode(errors="surrogatepass") for text in texts)
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in folded), dtype="<u8")


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
