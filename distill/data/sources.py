"""Reads what the user names (`FILE`, `builtin:NAME`, `hub:ID`) as clean, disjoint training, validation and test texts."""

from __future__ import annotations

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
from distill.data.files import BadRows, Columns, OnBadRow, Record, Row, Say, read_rows, require_columns, usable_rows
from distill.data.values import encoded
from distill.errors import DatasetError, SettingsError, requires
from distill.labels import are_numbers, label_names_of
from distill.settings import DataSettings, TextSettings
from distill.texts import TextInput

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Splits:
    """Three sets with the same labels and no text in common."""

    train: Dataset
    validation: Dataset
    test: Dataset | None

    @classmethod
    def of(
        cls,
        train: Dataset,
        validation: Dataset | None = None,
        test: Dataset | None = None,
        *,
        validation_share: float = 0.1,
        seed: int = 0,
    ) -> Splits:
        """Clean sets of texts and make them disjoint: a text that is in several stays in the test, else the validation texts.

        Args:
            train: Texts to learn from; repeated ones are merged.
            validation: Texts that choose; None cuts a share off the training texts, stratified by label.
            test: Texts to measure on.
            validation_share: That share, 0 to 1.
            seed: Seed of the cut.

        Raises:
            DatasetError: The sets have different labels, or too few texts of a label.
        """
        for part in (validation, test):
            if part is not None and part.labels != train.labels:
                raise DatasetError(
                    f"{part.source} has the labels {list(part.labels)}, {train.source} has {list(train.labels)}; read both "
                    "with the same label names"
                )
        train = merge_duplicates(train)
        require_usable(train)
        if test is not None:
            require_texts(test, "test")
            train = without_texts_of(train, test)
            validation = validation and without_texts_of(validation, test)
        if validation is None:
            count = max(len(train.labels), round(validation_share * len(train)))
            train, validation = split_off(train, count=count, seed=seed, name="validation")
        else:
            train = without_texts_of(train, validation)
        require_two_labels(train)
        require_texts(validation, "validation")
        return cls(train, validation, test)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was dropped, merged or sampled in any split, each note once."""
        parts = [self.train, self.validation, *([self.test] if self.test else [])]
        return tuple(dict.fromkeys(note for part in parts for note in part.notes))


def load_splits(settings: DataSettings, *, labels: Sequence[str] = (), train: Dataset | None = None) -> Splits:
    """Read, clean and split the texts that the settings name.

    A text that is in several splits stays in the test texts, else in the validation texts.

    Args:
        settings: Sources, columns and the split.
        labels: Label names that must be kept, such as those of a teacher.
        train: Training texts that are read already, where `settings` name none.

    Raises:
        SettingsError: There are no training texts, or `settings.labels` differ from `labels`.
        DatasetError: A source cannot be read, or the texts cannot be split.
    """
    if not settings.train and train is None:
        raise SettingsError("no training texts; name a file with --train FILE, or use --train builtin:movies")
    if labels and settings.labels and sorted(labels) != sorted(settings.labels):
        raise SettingsError(
            f"--labels {list(settings.labels)} differ from the teacher's labels {list(labels)}, whose names are fixed; leave "
            "out --labels and use the teacher's names in the label column"
        )
    read = [read_labelled(source, "train", settings, labels=labels) for source in settings.train]
    train = united(read) if train is None or read else train
    require_usable(train)  # names the training texts before another file is read by their labels
    test = None if settings.test is None else read_labelled(settings.test, "test", settings, labels=train.labels)
    validation = (
        None if settings.validation is None else read_labelled(settings.validation, "validation", settings, labels=train.labels)
    )
    found = Splits.of(train, validation, test, validation_share=settings.validation_share, seed=settings.split_seed)
    train, validation = (limited(part, settings.limit, seed=settings.split_seed) for part in (found.train, found.validation))
    test = found.test and limited(found.test, settings.limit, seed=settings.split_seed)
    return Splits(train, validation, test)


def read_labelled(source: str, split: Split, settings: DataSettings, *, labels: Sequence[str] = ()) -> Dataset:
    """Read one source as labelled texts.

    Args:
        source: A file, `builtin:NAME` or `hub:ID`.
        split: Split to read from a built-in or hub set; files have only one.
        settings: Column names and limits.
        labels: Label names and their order; default: `settings.labels`, else the names in the data. If the settings have the
            same names in another order, class ids in the data are read in that of the settings.

    Raises:
        DatasetError: The source cannot be read, or has a label that is not one of `labels`.
    """
    same = sorted(settings.labels) == sorted(labels)
    names = settings.labels if same else tuple(labels) or settings.labels
    kind, _, name = source.partition(":")
    if kind == "builtin":
        _require_no_pairs(source, settings)
        return _with_labels(_builtin_split(name, split, settings), tuple(labels) or names)
    bad_rows = BadRows(settings.skip_bad_rows)
    columns = Columns(
        settings.text_column,
        settings.label_column,
        settings.max_text_chars,
        settings.label_separator,
        pair=settings.pair_column,
    )
    notes: list[str] = []
    read = _read_hub if kind == "hub" else _read_file
    rows = [*read(name if kind == "hub" else source, split, columns, bad_rows, say=notes.append)]
    if bad_rows.first and not rows:
        raise bad_rows.first
    if bad_rows.count:
        notes.append(bad_rows.note(source))
    return _with_labels(replace(_from_rows(rows, source, names), notes=tuple(notes)), labels)


def _require_no_pairs(source: str, settings: TextSettings) -> None:
    if settings.pair_column is not None:
        raise SettingsError(f"{source} has single texts; leave out --pair-column, or name a file with pairs")


def read_teacher_logits(sources: Sequence[str], settings: DataSettings) -> Iterator[tuple[TextInput, tuple[float, ...]]]:
    """Yield the texts of files with the logits in their `teacher_logits_column`, one at a time.

    Raises:
        DatasetError: A source is not a file, lacks the column, or has a row with unusable logits.
    """
    columns = Columns(
        settings.text_column,
        None,
        settings.max_text_chars,
        logits=settings.teacher_logits_column,
        pair=settings.pair_column,
    )
    for source in sources:
        if source.startswith(("builtin:", "hub:")):
            raise DatasetError(f"{source} has no column of teacher logits; name files, or leave out --teacher-logits-column")
        # The same rows are reported where the texts are read.
        for row in read_rows(Path(source), columns, BadRows(settings.skip_bad_rows)):
            yield row.text, row.logits or ()


@dataclass(frozen=True)
class TextSources:
    """Sources of texts without labels; each iteration reads them again, one text at a time.

    Attributes:
        sources: Files or `builtin:NAME`.
        settings: Columns and limits.
    """

    sources: tuple[str, ...]
    settings: TextSettings

    def __iter__(self) -> Iterator[TextInput]:
        for source in self.sources:
            yield from read_texts(source, self.settings)


def read_texts(source: str, settings: TextSettings) -> Iterator[TextInput]:
    """Yield the texts of a source without reading labels, one at a time: a file, or all splits of `builtin:NAME`."""
    kind, _, name = source.partition(":")
    if kind == "builtin":
        _require_no_pairs(source, settings)
        for part in builtin.load_builtin(name):
            yield from part.texts
        return
    bad_rows = BadRows(settings.skip_bad_rows)
    columns = Columns(settings.text_column, None, settings.max_text_chars, pair=settings.pair_column)
    yield from bad_rows.texts(source, read_rows(Path(source), columns, bad_rows))


def _builtin_split(name: str, split: Split, settings: DataSettings) -> Dataset:
    train, test = builtin.load_builtin(name)
    if split == "validation":
        count = round(settings.validation_share * len(train))
        return split_off(train, count=count, seed=settings.split_seed, name="validation")[1]
    return test if split == "test" else train


def _read_file(source: str, _: Split, columns: Columns, on_bad_row: OnBadRow, *, say: Say) -> Iterator[Row]:
    yield from read_rows(Path(source), columns, on_bad_row, say=say)


def _read_hub(name: str, split: Split, columns: Columns, on_bad_row: OnBadRow, *, say: Say) -> Iterator[Row]:
    """Yield the rows of `ID`, `ID:CONFIG`, `ID@SPLIT` or `ID:CONFIG@SPLIT`."""
    with requires("reading a set from the hub"):
        import datasets
    source = f"hub:{name}"
    name, _, chosen_split = name.partition("@")
    name, _, config = name.partition(":")
    try:
        parts = _loaded_from_hub(name, config or None, say)
    except Exception as exc:  # the library raises its own errors, those of huggingface_hub and httpx, and OSError
        raise DatasetError(f"{source} cannot be loaded: {exc}; check the name and the network", path=source) from exc
    wanted = chosen_split or split
    if wanted not in parts:
        raise DatasetError(
            f"{source} has no {wanted!r} split; its splits: {', '.join(parts)}; choose one with hub:ID@SPLIT", path=source
        )
    table = parts[wanted]
    asked, columns = columns, columns.found_in(source, table.column_names)
    require_columns(source, table.column_names, columns)
    for note in columns.note(source, asked):
        say(note)
    records: Iterable[Record] = enumerate(table, start=1)
    label = str(columns.label)
    feature = table.features[label]
    if isinstance(feature, datasets.ClassLabel):
        records = ((line, {**record, label: _class_name(feature, record[label])}) for line, record in records)
    elif isinstance(each := getattr(feature, "feature", None), datasets.ClassLabel):  # a list of classes
        records = (
            (line, {**record, label: [_class_name(each, class_id) for class_id in record[label]]}) for line, record in records
        )
    yield from usable_rows(source, records, columns, on_bad_row)


def _loaded_from_hub(name: str, config: str | None, say: Say) -> Any:
    """Return the splits of a set on the hub; without a network, of its snapshot in the local hub cache."""
    import datasets
    from huggingface_hub import snapshot_download

    try:
        # Scripts inside a dataset repository are never run: `datasets` no longer supports them.
        return datasets.load_dataset(name, config)
    except ConnectionError:
        # `datasets` looks only in its own cache of converted sets, not at what `hf download` has left in that of the hub.
        try:
            folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
        except (OSError, ValueError):  # nothing there, or the name is not an id: the first error says what happened
            folder = None
        if folder is None:
            raise
        say(f"hub:{name}: not reachable, read from revision {Path(folder).name[:12]} in the local hub cache")
        return datasets.load_dataset(folder, config)


def _class_name(feature: Any, class_id: int | None) -> str | None:
    # Sets on the hub mark a row whose label is withheld with -1.
    return None if class_id is None or class_id < 0 else str(feature.int2str(class_id))


def _from_rows(rows: Sequence[Row], source: str, labels: Sequence[str]) -> Dataset:
    def error(row: int, problem: str) -> DatasetError:
        line = rows[row].line
        return DatasetError(f"{source}:{line}: {problem}", path=source, line=line)

    label_ids, names = encoded(["" if row.label is None else row.label for row in rows], labels, error=error)
    return Dataset(tuple(row.text for row in rows), label_ids, names, source)


def _with_labels(dataset: Dataset, labels: Sequence[str]) -> Dataset:
    """Renumber the labels in the order of `labels`, by name."""
    if not labels or tuple(labels) == dataset.labels:
        return dataset
    rows = [Row(text, dataset.label_names(index), index + 1) for index, text in enumerate(dataset.texts)]
    return replace(_from_rows(rows, dataset.source, labels), notes=dataset.notes)


def united(parts: Sequence[Dataset]) -> Dataset:
    """Join sets into one, with the labels of all of them."""
    tasks = {part.problem_type: part for part in parts}
    if len(tasks) > 1:
        single, several = tasks["single_label_classification"], tasks["multi_label_classification"]
        raise DatasetError(
            f"{several.source} has several labels per text, {single.source} one; use sets of one kind", path=several.source
        )
    by_number = [part for part in parts if part.labels and are_numbers(part.labels)]
    by_name = [part for part in parts if not are_numbers(part.labels)]
    if by_number and by_name:
        raise DatasetError(
            f"{by_number[0].source} has its labels by number, {by_name[0].source} by name; name the labels, in the order of "
            "the numbers, with --labels",
            path=by_number[0].source,
        )
    is_same = len({part.labels for part in parts}) == 1
    names = parts[0].labels if is_same else label_names_of(name for part in parts for name in part.labels)
    parts = [_with_labels(part, names) for part in parts]
    return Dataset(
        texts=tuple(text for part in parts for text in part.texts),
        label_ids=np.concatenate([part.label_ids for part in parts]),
        labels=names,
        source=" + ".join(part.source for part in parts),
        notes=tuple(note for part in parts for note in part.notes),
    )
