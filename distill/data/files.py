"""Rows out of CSV, TSV, JSONL and Parquet files, one at a time, each with the line it came from.

Decides what a usable row is; knows nothing of splits or label names.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import DatasetError, requires


@dataclass(frozen=True)
class Columns:
    """Which columns to read; `label` None reads texts alone, `label_separator` stands between several labels of a text.

    `logits` is a column of numbers, one a label: a JSON list, or a list where the file knows lists.
    """

    text: str
    label: str | None
    max_text_chars: int
    label_separator: str | None = None
    logits: str | None = None


@dataclass(frozen=True)
class Row:
    """One text, its label as written (None when not asked for, a tuple where there may be several), and its line, from 1."""

    text: str
    label: str | tuple[str, ...] | None
    line: int
    logits: tuple[float, ...] | None = None


Record = tuple[int, dict[str, Any]]
"""A line number and the columns of that line."""

# An open quote swallows the rest of the file; it is noticed here at the latest. Shorter fields are one bad row at most.
_MAX_FIELD_CHARS = 64 * 2**20

BadRow = Callable[[DatasetError], None]
"""Told of each row that cannot be used; it raises to stop, or returns to leave the row out."""


def stop_at_bad_row(error: DatasetError) -> None:
    """Raise the error: the first bad row ends the reading."""
    raise error


def read_rows(path: Path, columns: Columns, *, on_bad_row: BadRow = stop_at_bad_row) -> Iterator[Row]:
    """Yield the rows of a file, in order, without holding the file in memory.

    Args:
        path: A .csv, .tsv, .jsonl (.ndjson) or .parquet file.
        columns: Names of the columns to read.
        on_bad_row: Called for an empty, too long, untyped or non-UTF-8 row.

    Raises:
        DatasetError: The file is missing, of an unknown kind, cut, or lacks a column.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path}: cannot tell its kind; wanted a name ending in {', '.join(readers)}", path=path)
    try:
        if not path.is_file():
            raise DatasetError(f"{path} is not a file", path=path)
        yield from usable_rows(path, reader(path, columns, on_bad_row), columns, on_bad_row)
    except OSError as exc:
        raise DatasetError(f"cannot read {path}: {exc.strerror or exc}", path=path) from exc


def usable_rows(source: Path | str, records: Iterable[Record], columns: Columns, on_bad_row: BadRow) -> Iterator[Row]:
    """Yield records as rows; those that cannot be used go to `on_bad_row`."""
    for line, record in records:
        try:
            row = _usable_row(source, line, record, columns)
        except DatasetError as error:
            on_bad_row(error)
        else:
            yield row


def require_columns(source: Path | str, present: list[str], columns: Columns, *, line: int | None = None) -> None:
    """Refuse a table, or one line of a file whose lines name their own columns, that lacks a wanted column."""
    where = source if line is None else f"{source}:{line}"
    flags = ("--text-column", "--label-column", "--teacher-logits-column")
    for flag, name in zip(flags, (columns.text, columns.label, columns.logits), strict=True):
        if name is not None and name not in present:
            seen = ", ".join(map(repr, present)) or "none"
            raise DatasetError(f"{where} has no column {name!r}; it has {seen}: name it with {flag}", path=source, line=line)
        if name is not None and present.count(name) > 1:
            raise DatasetError(f"{where} has {present.count(name)} columns named {name!r}; wanted one", path=source, line=line)


def _read_csv(path: Path, columns: Columns, on_bad_row: BadRow) -> Iterator[Record]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open("rb") as file:
        header, records = csv_records(
            path, text_lines(file), delimiter=delimiter, max_field_chars=columns.max_text_chars, on_bad_row=on_bad_row
        )
        require_columns(path, header, columns)
        yield from records


def csv_records(
    path: Path | str, lines: Iterable[str], *, delimiter: str, max_field_chars: int, on_bad_row: BadRow
) -> tuple[list[str], Iterator[Record]]:
    """Read CSV lines: return the header and an iterator over the records below it.

    Args:
        path: Where they come from, for messages.
        lines: With their line ends.
        delimiter: Between two fields.
        max_field_chars: Fields up to this long are taken.
        on_bad_row: Called for a row with another number of fields than the header.

    Raises:
        DatasetError: There is no header, or a quote is left open.
    """
    # The limit is the csv module's own global; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD_CHARS, max_field_chars))
    rows = _csv_rows(path, csv.reader(lines, delimiter=delimiter, strict=True))
    _, header = next(rows, (0, None))
    if header is None:
        raise DatasetError(f"{path} is empty; wanted a header line and rows", path=path)
    return header, _csv_records(path, header, rows, on_bad_row)


def _csv_records(
    path: Path | str, header: list[str], rows: Iterator[tuple[int, list[str]]], on_bad_row: BadRow
) -> Iterator[Record]:
    for line, values in rows:
        if len(values) == len(header):
            yield line, dict(zip(header, values, strict=True))
        elif values:
            on_bad_row(DatasetError(f"{path}:{line}: {len(values)} fields, wanted {len(header)}", path=path, line=line))


def _csv_rows(path: Path | str, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its fields."""
    line = 1
    while True:
        try:
            values = next(reader, None)
        except csv.Error as exc:
            raise DatasetError(
                f"{path}:{line}: not well-formed from here on ({exc}); is a quote left open?", path=path, line=line
            ) from exc
        if values is None:
            return
        yield line, values
        line = reader.line_num + 1


def _read_jsonl(path: Path, columns: Columns, on_bad_row: BadRow) -> Iterator[Record]:
    with path.open("rb") as file:
        for line, content in enumerate(text_lines(file), start=1):
            if not content.strip():
                continue
            try:
                record = json_object(path, line, content)
                require_columns(path, list(record), columns, line=line)
            except DatasetError as error:
                on_bad_row(error)
            else:
                yield line, record


def json_object(path: Path | str, line: int, content: str) -> dict[str, Any]:
    """Return one line of a JSONL file.

    Raises:
        DatasetError: It is not a JSON object.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as exc:  # a number of 5,000 digits is a bare ValueError
        raise DatasetError(f"{path}:{line}: not JSON: {exc}", path=path, line=line) from exc
    if not isinstance(record, dict):
        raise DatasetError(f"{path}:{line}: {type(record).__name__}, wanted an object", path=path, line=line)
    return record


def _read_parquet(path: Path, columns: Columns, on_bad_row: BadRow) -> Iterator[Record]:  # noqa: ARG001  (one signature)
    with requires("reading Parquet files"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    wanted = [name for name in (columns.text, columns.label, columns.logits) if name is not None]
    line = 0
    try:
        with pq.ParquetFile(path) as file:
            require_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(columns=wanted):
                for values in zip(*map(values_of, batch.columns), strict=True):
                    line += 1
                    yield line, dict(zip(batch.schema.names, values, strict=True))
    except pa.ArrowException as exc:
        raise DatasetError(f"{path} is not a whole Parquet file: {exc}", path=path) from exc


def values_of(column: Any) -> list[Any]:
    """Return the values of an Arrow column; a byte that is not UTF-8 becomes a lone surrogate, as in `text_lines`."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        contents = column.cast("large_binary").to_pylist()
        return [None if content is None else content.decode(errors="surrogateescape") for content in contents]
    return values


def text_lines(file: Iterable[bytes]) -> Iterator[str]:
    """Yield lines; a byte that is not UTF-8 becomes a lone surrogate, so that its row can be named and refused."""
    for number, line in enumerate(file):
        yield line.decode("utf-8-sig" if number == 0 else "utf-8", errors="surrogateescape")


def _usable_row(source: Path | str, line: int, record: dict[str, Any], columns: Columns) -> Row:
    text = record[columns.text]
    label = None if columns.label is None else _label_of(record[columns.label], columns.label_separator)
    problem = problem_with(text, columns.max_text_chars)
    if problem is None and columns.label is not None:
        if label is None:
            problem = f"the label is {record[columns.label]!r}, wanted a name or a whole number"
        elif not _is_utf8("".join(label)):
            problem = f"the label {label!r} is not UTF-8; save the file as UTF-8"
    logits = None if columns.logits is None else _logits_of(record[columns.logits])
    if problem is None and columns.logits is not None and logits is None:
        problem = f"the teacher logits are {record[columns.logits]!r}, wanted a list of numbers such as [-1.5, 2.25]"
    if problem is not None:
        raise DatasetError(f"{source}:{line}: {problem} (--skip-bad-rows leaves such rows out)", path=source, line=line)
    return Row(text, label, line, logits)


def problem_with(text: object, max_text_chars: int) -> str | None:
    """Return why a text cannot be used, in words; None where it can."""
    if not isinstance(text, str):
        return f"the text is {type(text).__name__}, wanted a string"
    if not text.strip():
        return "the text is empty"
    if len(text) > max_text_chars:
        return f"the text has {len(text):,} characters, more than --max-text-chars {max_text_chars:,}"
    return None if _is_utf8(text) else "the text is not UTF-8; save the file as UTF-8"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _logits_of(value: object) -> tuple[float, ...] | None:
    """Return a row's logits; None where they cannot be read."""
    try:
        values = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or not values:
        return None
    if any(isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number) for number in values):
        return None
    return tuple(map(float, values))


def _label_of(value: object, separator: str | None) -> str | tuple[str, ...] | None:
    """Return a label, or all labels where the column is a list or has a separator; None where one cannot be read."""
    if separator is not None and (isinstance(value, str) or value is None):
        value = value.split(separator) if value and value.strip() else []
    elif separator is not None and not isinstance(value, list):
        value = [value]
    if not isinstance(value, list):
        return _label_text(value)
    names = tuple(dict.fromkeys(map(_label_text, value)))
    return None if None in names else names  # type: ignore[return-value]  # mypy does not see that no None is left


def _label_text(value: object) -> str | None:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if isinstance(value, bool) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        return None
    return str(value).strip() or None
