"""From what the user named (`FILE`, `builtin:NAME`, `hub:ID`) to clean, disjoint training, validation and test texts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distill.data import builtin
from distill.data.dataset import (
    Dataset,
    limited,
    merge_duplicates,
    require_texts,
    require_two_labels,
    require_usable,
    split_off,
    without_texts_of,
)
from distill.data.files import BadRow, Columns, Record, Row, read_rows, require_columns, stop_at_bad_row, usable_rows
from distill.errors import DatasetError, SettingsError, requires
from distill.labels import are_numbers, label_ids_by_value, label_names_of
from distill.settings import DataSettings, TextSettings

SplitName = Literal["train", "validation", "test"]

logger = logging.getLogger(__name__)


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


@dataclass
class LeftOut:
    """Counts rows that cannot be used, and remembers the first; there may be more of them than fit into memory."""

    count: int = 0
    first: DatasetError | None = None

    def __call__(self, error: DatasetError) -> None:
        """Leave a row out."""
        self.count += 1
        self.first = self.first or error

    def note(self, source: str) -> str:
        """Return how many rows were left out, in words."""
        return f"{source}: left out {self.count} rows that cannot be used; the first: {self.first}"


def load_splits(settings: DataSettings, *, labels: Sequence[str] = ()) -> Splits:
    """Read, clean and split what the settings name.

    Args:
        settings: Sources, columns and the cut.
        labels: Label names that must be kept, such as a teacher's.

    Raises:
        SettingsError: No training texts are named, or `settings.labels` differ from `labels`.
        DatasetError: A source cannot be read, or a split cannot be made.
    """
    if not settings.train:
        raise SettingsError("no training texts; name a file with --train FILE, or use --train builtin:movies")
    if labels and settings.labels and tuple(labels) != settings.labels:
        raise SettingsError(
            f"--labels {list(settings.labels)} differ from the teacher's labels {list(labels)}, whose names and order are "
            "fixed; leave out --labels and write the teacher's names in the label column"
        )
    parts = [read_labelled(source, "train", settings, labels=labels) for source in settings.train]
    train = merge_duplicates(_joined(parts))
    require_usable(train)
    others: dict[SplitName, Dataset | None] = {}
    roles: tuple[tuple[SplitName, str | None], ...] = (("test", settings.test), ("validation", settings.validation))
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
    require_two_labels(train)
    require_texts(validation, "validation")
    if test is not None:
        require_texts(test, "test")
    seed = settings.split_seed
    return Splits(
        train=limited(train, settings.limit, seed=seed),
        validation=limited(validation, settings.limit, seed=seed),
        test=None if test is None else limited(test, settings.limit, seed=seed),
    )


def read_labelled(source: str, role: SplitName, settings: DataSettings, *, labels: Sequence[str] = ()) -> Dataset:
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
    left_out = LeftOut()
    on_bad_row: BadRow = left_out if settings.skip_bad_rows else stop_at_bad_row
    if kind == "hub":
        rows = list(_read_hub(name, role, settings, on_bad_row))
    else:
        columns = _labelled_columns(settings)
        rows = list(read_rows(Path(source), columns, on_bad_row=on_bad_row))
    if left_out.first and not rows:
        raise left_out.first
    dataset = _from_rows(rows, source, names)
    return replace(dataset, notes=(*dataset.notes, left_out.note(source))) if left_out.count else dataset


def read_teacher_logits(sources: Sequence[str], settings: DataSettings) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the texts of files with the logits in their `teacher_logits_column`, one at a time.

    Raises:
        DatasetError: A source is not a file, lacks the column, or a row's logits cannot be read.
    """
    columns = Columns(settings.text_column, None, settings.max_text_chars, logits=settings.teacher_logits_column)
    on_bad_row: BadRow = LeftOut() if settings.skip_bad_rows else stop_at_bad_row  # counted where the texts are read
    for source in sources:
        if source.startswith(("builtin:", "hub:")):
            raise DatasetError(f"{source} has no column of teacher logits; name files, or leave out --teacher-logits-column")
        for row in read_rows(Path(source), columns, on_bad_row=on_bad_row):
            yield row.text, row.logits or ()


@dataclass(frozen=True)
class TextSources:
    """Sources of texts that need no labels; each iteration reads them anew, one text at a time.

    Attributes:
        sources: Files or `builtin:NAME`.
        settings: Columns and limits.
    """

    sources: tuple[str, ...]
    settings: TextSettings

    def __iter__(self) -> Iterator[str]:
        for source in self.sources:
            yield from read_texts(source, self.settings)


def read_texts(source: str, settings: TextSettings) -> Iterator[str]:
    """Yield the texts of a source that needs no labels, one at a time: a file, or all of `builtin:NAME`."""
    kind, _, name = source.partition(":")
    if kind == "builtin":
        for part in builtin.load_builtin(name):
            yield from part.texts
        return
    columns = Columns(settings.text_column, None, settings.max_text_chars)
    left_out = LeftOut()
    on_bad_row: BadRow = left_out if settings.skip_bad_rows else stop_at_bad_row
    for row in read_rows(Path(source), columns, on_bad_row=on_bad_row):
        yield row.text
    if left_out.count:
        logger.warning("%s", left_out.note(source))


def _builtin_part(name: str, role: SplitName, settings: DataSettings) -> Dataset:
    train, test = builtin.load_builtin(name)
    if role == "test":
        return test
    if role == "train":
        return train
    count = round(settings.validation_share * len(train))
    return split_off(train, count=count, seed=settings.split_seed, name="validation")[1]


def _read_hub(name: str, role: SplitName, settings: DataSettings, on_bad_row: BadRow) -> Iterator[Row]:
    with requires("reading a set from the hub"):
        import datasets
    source = f"hub:{name}"
    columns = _labelled_columns(settings)
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
    require_columns(source, table.column_names, columns)
    records: Iterable[Record] = enumerate(table, start=1)
    label = settings.label_column
    feature = table.features[label]
    if isinstance(feature, datasets.ClassLabel):
        records = ((line, {**record, label: _class_name(feature, record[label])}) for line, record in records)
    elif isinstance(each := getattr(feature, "feature", None), datasets.ClassLabel):  # a list of classes
        records = (
            (line, {**record, label: [_class_name(each, class_id) for class_id in record[label]]}) for line, record in records
        )
    yield from usable_rows(source, records, columns, on_bad_row)


def _class_name(feature: Any, class_id: int | None) -> str | None:
    # -1 is how sets on the hub mark a row whose label is kept back.
    return None if class_id is None or class_id < 0 else str(feature.int2str(class_id))


def _labelled_columns(settings: DataSettings) -> Columns:
    return Columns(settings.text_column, settings.label_column, settings.max_text_chars, settings.label_separator)


def _from_rows(rows: Sequence[Row], source: str, labels: Sequence[str]) -> Dataset:
    several = [isinstance(row.label, tuple) for row in rows]
    if any(several) and not all(several):
        line = rows[several.index(not several[0])].line
        raise DatasetError(
            f"{source}:{line}: some rows have a list of labels, others a single one; write lists throughout, or "
            "single labels throughout",
            path=source,
            line=line,
        )
    written = [row.label if isinstance(row.label, tuple) else (row.label or "",) for row in rows]
    names = tuple(labels) or label_names_of(value for values in written for value in values)
    ids = label_ids_by_value(names, (value for values in written for value in values))
    for row, values in zip(rows, written, strict=True):
        for value in values:
            if value not in ids:
                raise DatasetError(
                    f"{source}:{row.line}: label {value!r} is not one of {', '.join(map(repr, names))}",
                    path=source,
                    line=row.line,
                )
    if not any(several):
        label_ids = np.array([ids[value] for (value,) in written], dtype=np.int64)
    else:
        label_ids = np.zeros((len(rows), len(names)), dtype=np.int64)
        for index, values in enumerate(written):
            label_ids[index, [ids[value] for value in values]] = 1
    return Dataset(tuple(row.text for row in rows), label_ids, names, source)


def _with_labels(dataset: Dataset, labels: Sequence[str]) -> Dataset:
    """Number the labels as `labels` does, by name."""
    if not labels or tuple(labels) == dataset.labels:
        return dataset
    rows = [Row(text, dataset.label_names(index), index + 1) for index, text in enumerate(dataset.texts)]
    return replace(_from_rows(rows, dataset.source, labels), notes=dataset.notes)


def _joined(parts: Sequence[Dataset]) -> Dataset:
    """Join sources into one set whose labels are those of all, numbered afresh."""
    if len(parts) == 1:
        return parts[0]
    tasks = {part.problem_type: part for part in parts}
    if len(tasks) > 1:
        single, several = tasks["single_label_classification"], tasks["multi_label_classification"]
        raise DatasetError(
            f"{several.source} has several labels a text, {single.source} one; use sets of one kind", path=several.source
        )
    by_number = [part for part in parts if part.labels and are_numbers(part.labels)]
    by_name = [part for part in parts if not are_numbers(part.labels)]
    if by_number and by_name:
        raise DatasetError(
            f"{by_number[0].source} has its labels by number, {by_name[0].source} by name; say which is which with --labels",
            path=by_number[0].source,
        )
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
