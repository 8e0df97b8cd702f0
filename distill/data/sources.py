"""From what the user named (`FILE`, `builtin:NAME`, `hub:ID`) to clean, disjoint training, validation and test texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from distill.data import builtin
from distill.data.dataset import Dataset, limited, merge_duplicates, require_usable, split_off, without_texts_of
from distill.data.files import BadRow, Columns, Row, read_rows, stop_at_bad_row
from distill.errors import DatasetError, SettingsError
from distill.extras import requires
from distill.labels import label_ids_by_value, label_names_of
from distill.settings import DataSettings

Role = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Splits:
    """Three sets that share label names and no text."""

    train: Dataset
    validation: Dataset
    test: Dataset | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was dropped, merged or cut anywhere, each said once."""
        parts = [self.train, self.validation, *([self.test] if self.test else [])]
        return tuple(dict.fromkeys(note for part in parts for note in part.notes))


def load_splits(settings: DataSettings, *, labels: Sequence[str] = ()) -> Splits:
    """Read, clean and split what the settings name.

    Args:
        settings: Sources, columns and the cut.
        labels: Label names that must be kept, such as a teacher's; they go before `settings.labels`.

    Raises:
        SettingsError: No training texts are named.
        DatasetError: A source cannot be read, or a split cannot be made.
    """
    if not settings.train:
        raise SettingsError("no training texts; name a file with --train FILE, or use --train builtin:movies")
    parts = [read_labelled(source, "train", settings, labels=labels) for source in settings.train]
    train = merge_duplicates(_joined(parts))
    require_usable(train)
    others: dict[Role, Dataset | None] = {}
    roles: tuple[tuple[Role, str | None], ...] = (("test", settings.test), ("validation", settings.validation))
    for role, source in roles:
        others[role] = None if source is None else read_labelled(source, role, settings, labels=train.labels)
    test, validation = others["test"], others["validation"]
    if test is not None:
        train = without_texts_of(train, test)
        validation = without_texts_of(validation, test) if validation is not None else None
    if validation is None:
        count = max(len(train.labels), round(settings.validation_share * len(train)))
        train, validation = split_off(train, count=count, seed=settings.split_seed, name="validation")
    else:
        train = without_texts_of(train, validation)
    require_usable(train)
    seed = settings.split_seed
    return Splits(
        train=limited(train, settings.limit, seed=seed),
        validation=limited(validation, settings.limit, seed=seed),
        test=None if test is None else limited(test, settings.limit, seed=seed),
    )


def read_labelled(source: str, role: Role, settings: DataSettings, *, labels: Sequence[str] = ()) -> Dataset:
    """Read one source as labelled texts.

    Args:
        source: A file, `builtin:NAME` or `hub:ID`.
        role: Which part of a built-in or hub set is meant.
        settings: Column names and limits.
        labels: Label names to map to; without them `settings.labels`, else the names found.

    Raises:
        DatasetError: It cannot be read, or holds a label that is not one of `labels`.
    """
    names = tuple(labels) or settings.labels
    kind, _, name = source.partition(":")
    if kind == "builtin":
        return _with_labels(_builtin_part(name, role, settings), names)
    bad_rows: list[DatasetError] = []
    on_bad_row: BadRow = bad_rows.append if settings.skip_bad_rows else stop_at_bad_row
    if kind == "hub":
        rows = list(_read_hub(name, role, settings))
    else:
        columns = Columns(settings.text_column, settings.label_column, settings.max_text_chars)
        rows = list(read_rows(Path(source), columns, on_bad_row=on_bad_row))
    dataset = _from_rows(rows, source, names)
    if not bad_rows:
        return dataset
    note = f"{source}: left out {len(bad_rows)} rows that cannot be used; the first: {bad_rows[0]}"
    return replace(dataset, notes=(*dataset.notes, note))


def read_texts(source: str, settings: DataSettings) -> Iterator[str]:
    """Yield the texts of a file that needs no labels, one at a time."""
    columns = Columns(settings.text_column, None, settings.max_text_chars)
    on_bad_row: BadRow = (lambda error: None) if settings.skip_bad_rows else stop_at_bad_row
    for row in read_rows(Path(source), columns, on_bad_row=on_bad_row):
        yield row.text


def _builtin_part(name: str, role: Role, settings: DataSettings) -> Dataset:
    train, test = builtin.load_builtin(name)
    if role == "test":
        return test
    if role == "train":
        return train
    count = round(settings.validation_share * len(train))
    return split_off(train, count=count, seed=settings.split_seed, name="validation")[1]


def _read_hub(name: str, role: Role, settings: DataSettings) -> Iterator[Row]:
    with requires("reading a set from the hub"):
        import datasets
    source = f"hub:{name}"
    name, _, chosen_split = name.partition("@")
    name, _, config = name.partition(":")
    try:
        # Scripts inside a dataset repository are never run: `datasets` dropped them, and nothing here asks for them.
        parts = datasets.load_dataset(name, config or None)
    except Exception as exc:  # the library raises its own, huggingface_hub's, httpx's and OSError
        raise DatasetError(f"{source} cannot be loaded: {exc}; check the name and the network", path=source) from exc
    split = chosen_split or role
    if split not in parts:
        present = ", ".join(parts)
        raise DatasetError(f"{source} has no {split!r} split; it has {present}: choose one with hub:ID@SPLIT", path=source)
    table = parts[split]
    for flag, column in (("--text-column", settings.text_column), ("--label-column", settings.label_column)):
        if column not in table.column_names:
            raise DatasetError(
                f"{source} has no column {column!r}; it has {table.column_names}: name it with {flag}", path=source
            )
    feature = table.features[settings.label_column]
    for line, record in enumerate(table, start=1):
        value = record[settings.label_column]
        label = feature.int2str(value) if isinstance(feature, datasets.ClassLabel) else str(value)
        yield Row(record[settings.text_column], label, line)


def _from_rows(rows: Sequence[Row], source: str, labels: Sequence[str]) -> Dataset:
    values = [row.label or "" for row in rows]
    names = tuple(labels) or label_names_of(values)
    ids = label_ids_by_value(names, values)
    for row, value in zip(rows, values, strict=True):
        if value not in ids:
            raise DatasetError(
                f"{source}:{row.line}: label {value!r} is not one of {', '.join(map(repr, names))}", path=source, line=row.line
            )
    label_ids = np.array([ids[value] for value in values], dtype=np.int64)
    return Dataset(tuple(row.text for row in rows), label_ids, names, source)


def _with_labels(dataset: Dataset, labels: Sequence[str]) -> Dataset:
    """Number the labels as `labels` does, by name."""
    if not labels or tuple(labels) == dataset.labels:
        return dataset
    rows = [
        Row(text, dataset.labels[index], line) for line, (text, index) in enumerate(zip(dataset.texts, dataset.label_ids), 1)
    ]
    return replace(_from_rows(rows, dataset.source, labels), notes=dataset.notes)


def _joined(parts: Sequence[Dataset]) -> Dataset:
    """Join sources into one set whose labels are those of all, numbered afresh."""
    if len(parts) == 1:
        return parts[0]
    names = label_names_of(name for part in parts for name in part.labels)
    if all(part.labels == parts[0].labels for part in parts):
        names = parts[0].labels
    parts = [_with_labels(part, names) for part in parts]
    return Dataset(
        texts=tuple(text for part in parts for text in part.texts),
        label_ids=np.concatenate([part.label_ids for part in parts]),
        labels=names,
        source=" + ".join(part.source for part in parts),
        notes=tuple(note for part in parts for note in part.notes),
    )
