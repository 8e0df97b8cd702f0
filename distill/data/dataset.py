"""A set of labelled texts, and what is done to it: cleaning, checking, splitting, sampling.

Reads no file. In the order of this file: `Dataset`; equal texts (`fold`, duplicates, overlaps); checks (`require_…`); parts
of a set (`split_off`, `limited`, `few_shot`) and the stratified sampling they share; `JoinedTexts`.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from distill.data.values import labels_of, texts_of
from distill.errors import DatasetError
from distill.labels import ProblemType, Task, task_of_labels
from distill.texts import TextInput, content_of, parts_of

Item = TypeVar("Item", covariant=True)
Text = TypeVar("Text", bound=TextInput)


@dataclass(frozen=True)
class Dataset:
    """Texts with labels.

    Attributes:
        texts: One string each, or, of sentence pairs, one pair of strings each.
        label_ids: Class ids, shape (texts,); in multi-label data zeros and ones, shape (texts, labels).
        labels: Label names, in order.
        source: Where the texts come from, for messages.
        notes: Sentences on what was dropped, merged or sampled so far.
    """

    texts: tuple[TextInput, ...]
    label_ids: NDArray[np.int64]
    labels: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.label_ids):
            raise DatasetError(f"{self.source}: {len(self.texts)} texts and {len(self.label_ids)} labels")
        if self.label_ids.ndim == 2 and self.label_ids.shape[1] != len(self.labels):
            raise DatasetError(f"{self.source}: {self.label_ids.shape[1]} columns of labels and {len(self.labels)} label names")
        if len({isinstance(text, tuple) for text in self.texts}) > 1:
            raise DatasetError(f"{self.source}: some texts are pairs, others single texts; use one kind")

    @classmethod
    def from_texts(
        cls, texts: Iterable[Any], labels: Iterable[Any], names: Sequence[str] | None = None, *, source: str = "texts"
    ) -> Dataset:
        """Return a set of texts and labels from Python objects: lists, arrays, columns of pandas or of `datasets`.

        Args:
            texts: Strings, or pairs of strings.
            labels: One label per text: a name, a number (a class id if there are names) or a bool; or several: lists of
                these, or a matrix of zeros and ones.
            names: Label names, in order; default: those in the labels.
            source: Where the texts come from, for messages.

        Raises:
            DatasetError: A text or a label cannot be used; the message names its row.
        """
        found = texts_of(texts, source=source)
        label_ids, known = labels_of(labels, names, source=f"labels of {source}")
        return cls(tuple(found), label_ids, known, source)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def counts(self) -> dict[str, int]:
        """Number of texts of each label, by name."""
        has = self.task.indicator(self.label_ids, len(self.labels))
        return dict(zip(self.labels, has.sum(axis=0).tolist(), strict=True))

    @property
    def problem_type(self) -> ProblemType:
        """Whether a text has one label or several, by Hugging Face's name."""
        return self.task.problem_type

    @property
    def task(self) -> Task:
        """Single-label or multi-label classification, as the shape of `label_ids` says."""
        return task_of_labels(self.label_ids)

    @property
    def is_pairs(self) -> bool:
        """Whether the texts are sentence pairs."""
        return bool(self.texts) and isinstance(self.texts[0], tuple)

    def single_texts(self) -> tuple[str, ...]:
        """Return the texts, for what reads no pairs.

        Raises:
            DatasetError: They are pairs.
        """
        found = tuple(text for text in self.texts if isinstance(text, str))
        if len(found) < len(self.texts):
            raise DatasetError(f"{self.source} has sentence pairs; this takes single texts")
        return found

    def fingerprint(self) -> str:
        """Return a digest of the texts, their labels by name, and their order."""
        names = map(self.label_names, range(len(self)))
        # Several labels as a JSON list: a separator could be part of a name.
        return fingerprint(self.texts, [name if isinstance(name, str) else json.dumps(sorted(name)) for name in names])

    def label_names(self, index: int) -> str | tuple[str, ...]:
        """Return the name of a text's label; in multi-label data the names of all its labels."""
        if self.label_ids.ndim == 1:
            return self.labels[int(self.label_ids[index])]
        return tuple(self.labels[label] for label in np.flatnonzero(self.label_ids[index]))

    def in_order(self, labels: tuple[str, ...]) -> Dataset:
        """Return the set with its labels numbered in this order, by name.

        Raises:
            DatasetError: These are not the labels of the set.
        """
        if labels == self.labels:
            return self
        if sorted(labels) != sorted(self.labels):
            raise DatasetError(f"{self.source} has the labels {list(self.labels)}, not {list(labels)}")
        if self.label_ids.ndim == 2:
            return replace(self, labels=labels, label_ids=self.label_ids[:, [self.labels.index(name) for name in labels]])
        places = np.array([labels.index(name) for name in self.labels], dtype=np.int64)
        return replace(self, labels=labels, label_ids=places[self.label_ids])

    def take(self, indices: Sequence[int] | NDArray[np.int64], *notes: str) -> Dataset:
        """Return the rows at `indices`, in that order, with notes added."""
        return replace(
            self,
            texts=tuple(self.texts[index] for index in indices),
            label_ids=self.label_ids[np.asarray(indices, dtype=np.int64)],
            notes=(*self.notes, *notes),
        )


def fingerprint(texts: Sequence[TextInput], labels: Sequence[str] = ()) -> str:
    """Return the sha256 of texts and labels; each is preceded by its length, so that different lists differ in it."""
    digest = hashlib.sha256()
    for values in (texts, labels):
        digest.update(f"{len(values)};".encode())
        for content in map(content_of, values):
            digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()


def fold(text: TextInput) -> str:
    """Return the text without differences in case and white space; texts with equal folds count as the same text.

    The texts of a pair are folded one by one, with a line end between them, which no folded text contains.
    """
    return "\n".join(" ".join(part.casefold().split()) for part in parts_of(text))


def merge_duplicates(dataset: Dataset) -> Dataset:
    """Keep the first of equal texts; drop all of them where their labels differ."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(dataset.texts):
        rows_of[fold(text)].append(index)
    agreeing = [rows for rows in rows_of.values() if len({dataset.label_ids[row].tobytes() for row in rows}) == 1]
    num_agreeing = sum(map(len, agreeing))
    counts = {
        "merged {} repeated texts": num_agreeing - len(agreeing),
        "dropped {} texts that have different labels in different rows": len(dataset) - num_agreeing,
    }
    notes = [f"{dataset.source}: {note.format(count)}" for note, count in counts.items() if count]
    return dataset.take([rows[0] for rows in agreeing], *notes) if notes else dataset


def without_texts_of(dataset: Dataset, other: Dataset) -> Dataset:
    """Drop the texts that are also in `other`."""
    others = set(map(fold, other.texts))
    kept = [index for index, text in enumerate(dataset.texts) if fold(text) not in others]
    if len(kept) == len(dataset):
        return dataset
    return dataset.take(kept, f"{dataset.source}: dropped {len(dataset) - len(kept)} texts that are also in {other.source}")


_CHUNK_TEXTS = 8192


def texts_not_in(texts: Iterable[Text], others: Iterable[Dataset]) -> Iterator[Text]:
    """Yield each distinct text once, in order, unless it is in `others`.

    Reads at most 8,192 texts ahead and remembers 8 bytes per text, so the texts may be more than fit into memory.
    """
    seen = np.sort(_digests(text for other in others for text in other.texts))
    source = iter(texts)
    while chunk := list(islice(source, _CHUNK_TEXTS)):
        digests, first = np.unique(_digests(chunk), return_index=True)
        is_new = np.searchsorted(seen, digests, "left") == np.searchsorted(seen, digests, "right")
        seen = np.sort(np.concatenate([seen, digests[is_new]]), kind="stable")
        for index in np.sort(first[is_new]):
            yield chunk[index]


def _digests(texts: Iterable[TextInput]) -> NDArray[np.uint64]:
    # surrogatepass: the tokenizer refuses a lone surrogate and names the text that has it.
    folds = (fold(text).encode(errors="surrogatepass") for text in texts)
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in folds), dtype="<u8")


def require_texts(dataset: Dataset, split: str) -> None:
    """Refuse an empty set and report the last note, which says what was dropped.

    Args:
        dataset: What is left.
        split: What it is for, for the message ("validation").
    """
    if not len(dataset):
        why = f" ({dataset.notes[-1]})" if dataset.notes else ""
        raise DatasetError(f"{dataset.source} has no {split} text{why}; name a file that has some", path=dataset.source)


def require_two_labels(dataset: Dataset) -> None:
    """Refuse training texts that all have the same label."""
    require_texts(dataset, "training")
    present = [name for name, count in dataset.counts.items() if count]
    if len(present) < 2:
        found = f"every text has the label {present[0]!r}" if present else "no text has a label"
        raise DatasetError(f"{dataset.source}: {found}; a classifier needs at least two labels", path=dataset.source)


def require_usable(dataset: Dataset) -> None:
    """Refuse a set that cannot be split into training and validation texts: empty, one label, or a label with one text."""
    require_two_labels(dataset)
    for name, count in dataset.counts.items():
        if count == 1:
            raise DatasetError(
                f"{dataset.source}: only one text has the label {name!r}; each label needs at least two, one to train on and "
                "one to validate on: add texts with this label or remove it",
                path=dataset.source,
            )


def split_off(dataset: Dataset, *, count: int, seed: int, name: str) -> tuple[Dataset, Dataset]:
    """Split off `count` texts, stratified by label; return (rest, split-off texts).

    Args:
        dataset: The set to split; every label needs at least two texts.
        count: Number of texts to split off.
        seed: Seed of the choice.
        name: What the split-off texts are for, for messages ("validation").

    Raises:
        DatasetError: A label is too rare, or either part would be empty.
    """
    require_usable(dataset)
    if not 0 < count < len(dataset):
        raise DatasetError(f"{dataset.source}: cannot split off {count} {name} texts from {len(dataset)}; add texts")
    return _split(dataset, count, seed)


def limited(dataset: Dataset, limit: int | None, *, seed: int) -> Dataset:
    """Return a stratified sample of `limit` texts, with a note, or the set itself if it has no more."""
    if limit is None or limit >= len(dataset):
        return dataset
    note = f"{dataset.source}: a sample of {limit} of {len(dataset)} texts"
    return dataset.take(stratified_rows(dataset.label_ids, count=limit, seed=seed), note)


def few_shot(dataset: Dataset, *, shots: int, seed: int) -> tuple[Dataset, Dataset]:
    """Draw `shots` texts of each label; return (training texts, validation texts), with a fifth for validation.

    Args:
        dataset: Labelled texts to draw from. From multi-label data, `shots` texts per label are drawn on average, stratified.
        shots: Texts of each label, at least 2.
        seed: Seed of the draw.

    Raises:
        DatasetError: A label has fewer texts.
    """
    held_out, num_labels = max(1, shots // 5), len(dataset.labels)
    if dataset.label_ids.ndim == 2:
        count = shots * num_labels
        if count > len(dataset):
            raise DatasetError(f"{dataset.source}: --shots needs {count} texts, but there are {len(dataset)}; lower --shots")
        drawn = dataset.take(stratified_rows(dataset.label_ids, count=count, seed=seed))
        return _split(drawn, held_out * num_labels, seed)
    for name, count in dataset.counts.items():
        if count < shots:
            raise DatasetError(f"{dataset.source}: label {name!r} has {count} texts, fewer than {shots}; lower --shots")
    generator = np.random.default_rng(seed)
    rows = [generator.permutation(np.flatnonzero(dataset.label_ids == label))[:shots] for label in range(num_labels)]
    chosen, learnt = np.split(np.stack(rows), [held_out], axis=1)
    return dataset.take(np.sort(learnt, axis=None)), dataset.take(np.sort(chosen, axis=None))


def _split(dataset: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    rows = stratified_rows(dataset.label_ids, count=count, seed=seed)
    return dataset.take(np.setdiff1d(np.arange(len(dataset)), rows)), dataset.take(rows)


def stratified_rows(label_ids: NDArray[np.int64], *, count: int, seed: int) -> NDArray[np.int64]:
    """Draw `count` rows without replacement, stratified by label; return them in ascending order.

    Args:
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        count: Number of rows, at most as many as there are.
        seed: Seed of the draw.
    """
    generator = np.random.default_rng(seed)
    if label_ids.ndim == 2:
        return _iteratively_stratified(label_ids.astype(bool), count, generator)
    shares = _proportional(np.bincount(label_ids), count)
    drawn = [generator.permutation(np.flatnonzero(label_ids == label))[:share] for label, share in enumerate(shares)]
    rows: NDArray[np.int64] = np.sort(np.concatenate(drawn))
    return rows


def _proportional(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Divide `total` in proportion to `counts`, by largest remainder; return the share of each label.

    Where a label has at least two texts, it gets at least one and keeps at least one, if that is possible.
    """
    exact = counts * total / counts.sum()
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - int(shares.sum())]] += 1
    for empty in np.flatnonzero((shares == 0) & (counts > 1)):
        largest = int(np.argmax(shares))
        if shares[largest] > 1:
            shares[largest] -= 1
            shares[empty] += 1
    for full in np.flatnonzero((shares >= counts) & (counts > 1)):
        spare = np.flatnonzero(counts - shares > 1)
        if len(spare):
            shares[full] -= 1
            shares[spare[0]] += 1
    return shares


def _iteratively_stratified(has: NDArray[np.bool_], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the rows of the first of two parts, exactly `count`, by iterative stratification (Sechidis et al., 2011).

    The rarest label is distributed first, each of its rows to the part that lacks it most; rows without a label come last.
    """
    has = np.hstack([has, ~has.any(axis=1, keepdims=True)])
    rows, counts = len(has), has.sum(axis=0)
    # A label that at least two texts have is in both parts.
    wanted = np.where(counts > 1, np.clip(counts * count / rows, 1, counts - 1), counts * count / rows)
    lacks = np.stack([wanted, counts - wanted])
    room = [count, rows - count]
    order = generator.permutation(rows)
    part_of = np.full(rows, -1)
    while (is_open := part_of < 0).any():
        left = has[is_open].sum(axis=0)
        label = int(np.argmin(np.where(left > 0, left, rows + 1)))
        for row in order[(is_open & has[:, label])[order]]:
            # A part with room, the one that lacks the label more, the one with more room; of equal parts the second.
            part = max((1, 0), key=lambda part: (room[part] > 0, lacks[part, label], room[part]))
            part_of[row] = part
            lacks[part, has[row]] -= 1
            room[part] -= 1
    return np.flatnonzero(part_of == 0)


class LazySequence(Sequence[Item]):
    """A sequence that reads an item when it is asked for; a slice is a list."""

    @abstractmethod
    def item(self, place: int) -> Item:
        """Return the item at a place from 0 to len - 1."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        places = range(len(self))[index]
        return self.item(places) if isinstance(places, int) else [self.item(place) for place in places]


class JoinedTexts(LazySequence[TextInput]):
    """Several sequences of texts, one after the other; a text is read from its sequence when it is asked for."""

    def __init__(self, *parts: Sequence[TextInput]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def item(self, place: int) -> TextInput:
        """Return one text."""
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self._parts[part][place - int(self._ends[part])]  # negative: counted from the end of the part
