"""Texts and labels from Python objects: lists, arrays, columns of data frames and of `datasets`.

Objects are accepted by what they can do; neither pandas nor `datasets` is imported. Reads no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import DatasetError
from distill.labels import label_ids_by_value, label_names_of
from distill.texts import TextInput

Written = str | tuple[str, ...]
"""A label as written, or all labels of a text in multi-label data."""

RowError = Callable[[int, str], DatasetError]
"""From a row, from 0, and what is wrong with it, to the error."""


def texts_of(rows: Iterable[Any], *, source: str = "texts") -> list[TextInput]:
    """Return texts or pairs as strings and tuples.

    Args:
        rows: Strings, or pairs of strings: tuples, lists, or two columns.
        source: What the rows are, for messages.

    Raises:
        DatasetError: `rows` is a single string or has more columns, or a row is not a text.
    """
    columns = tuple(getattr(rows, "shape", ()))[1:]
    if isinstance(rows, str | bytes | Mapping) or len(columns) > 1 or (columns and columns[0] != 2):
        raise DatasetError(
            f"{source} is a {type(rows).__name__}{f' of {columns[0]} columns' if columns else ''}; pass a list, a Series or an "
            "array of texts, with two columns for pairs"
        )
    # A data frame iterates over the names of its columns.
    values = np.asarray(rows, dtype=object).tolist() if columns else list(rows)
    return [_text_of(value, source, row) for row, value in enumerate(values)]


def _text_of(value: Any, source: str, row: int) -> TextInput:
    if isinstance(value, str):
        return str(value)  # numpy's strings are a subclass
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return str(value[0]), str(value[1])
    raise DatasetError(f"{source}, row {row}: {type(value).__name__}, expected a string or a pair of strings")


def labels_of(
    labels: Iterable[Any], names: Sequence[str] | None, *, source: str = "labels"
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return class ids, shape (texts,), or zeros and ones, shape (texts, labels), and the label names.

    Args:
        labels: One label per text: a name, a number (a class id if there are names) or a bool; or several: lists of these, or
            a matrix of zeros and ones. The columns of a data frame name the labels.
        names: Label names, in order; None: the distinct labels, or the column numbers of a matrix.
        source: What the labels are, for messages.

    Raises:
        DatasetError: A row has no label, or one that is not among the names.
    """

    def error(row: int, problem: str) -> DatasetError:
        return DatasetError(f"{source}, row {row}: {problem}")

    if isinstance(labels, str | bytes | Mapping):
        raise DatasetError(f"{source} is a {type(labels).__name__}; pass one label per text")
    dense = getattr(labels, "toarray", None)  # a sparse matrix, as of MultiLabelBinarizer
    given = dense() if dense is not None else labels
    matrix = np.asarray(given) if getattr(given, "ndim", 1) != 1 else _matrix(given := list(given))
    if matrix is not None:
        columns = getattr(labels, "columns", None)
        own = range(matrix.shape[-1]) if columns is None else columns
        return _indicator(matrix, tuple(names or map(str, own)), source, error)
    written = [_written(value, row, error) for row, value in enumerate(given)]
    return encoded(written, tuple(names or ()), error=error)


def _matrix(rows: list[Any]) -> NDArray[Any] | None:
    """Return lists of zeros and ones, all of one length, as a matrix; None if they are anything else."""
    if not rows or not all(isinstance(row, list | tuple | np.ndarray) for row in rows) or len({len(row) for row in rows}) > 1:
        return None
    is_number = all(isinstance(value, bool | int | float | np.number | np.bool_) for row in rows for value in row)
    found = np.asarray(rows)
    return found if is_number and found.shape[1] > 1 and np.isin(found, (0, 1)).all() else None


def _indicator(
    matrix: NDArray[Any], names: tuple[str, ...], source: str, error: RowError
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if matrix.ndim != 2:
        raise DatasetError(f"{source} have {matrix.ndim} dimensions; pass one label per text, or a matrix of zeros and ones")
    if matrix.shape[1] != len(names):
        raise DatasetError(f"{source} have {matrix.shape[1]} columns, but there are {len(names)} names: {list(names)}")
    wrong = ~np.isin(matrix, (0, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise error(row, f"{matrix[row, column]!r} for {names[column]!r}, expected 0 or 1")
    return matrix.astype(np.int64), names


def _written(value: Any, row: int, error: RowError) -> Written:
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        parts = list(map(label_text, sorted(value) if isinstance(value, set | frozenset) else value))
        found = tuple(dict.fromkeys(part for part in parts if part is not None))
        if None not in parts:
            return found
    elif (name := label_text(value)) is not None:
        return name
    raise error(row, f"the label is {value!r}, expected a name or a whole number")


def label_text(value: object) -> str | None:
    """Return a label as written: names stripped, whole numbers without a point, bools in lower case; None if unusable."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (str(value).strip() or None) if isinstance(value, str | int) else None


def encoded(written: Sequence[Written], names: Sequence[str], *, error: RowError) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the label ids of labels as written, and the names: the given ones, or those that occur.

    Raises:
        DatasetError: Some rows have one label and others a list, or a label is not among the names.
    """
    is_list = [isinstance(label, tuple) for label in written]
    if any(is_list) and not all(is_list):
        raise error(
            is_list.index(not is_list[0]),
            "some rows have a list of labels, others a single label; use lists in all rows or in none",
        )
    parts = [label if isinstance(label, tuple) else (label,) for label in written]
    known = tuple(names) or label_names_of(value for values in parts for value in values)
    ids = label_ids_by_value(known, (value for values in parts for value in values))
    for row, values in enumerate(parts):
        if unknown := [value for value in values if value not in ids]:
            raise error(row, f"label {unknown[0]!r} is not one of {', '.join(map(repr, known))}")
    if not any(is_list):
        return np.array([ids[value] for (value,) in parts], dtype=np.int64), known
    label_ids = np.zeros((len(parts), len(known)), dtype=np.int64)
    for row, values in enumerate(parts):
        label_ids[row, [ids[value] for value in values]] = 1
    return label_ids, known
