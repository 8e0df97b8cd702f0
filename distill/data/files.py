"""Rows out of CSV, TSV, JSONL and Parquet files, one at a time, each with the line it came from.

Decides what a usable row is; knows nothing of splits or label names.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import DatasetError
from distill.extras import requires


@dataclass(frozen=True)
class Columns:
    """Which columns to read; `label` None reads texts alone."""

    text: str
    label: str | None
    max_text_chars: int


@dataclass(frozen=True)
class Row:
    """One text, its label as written (None when not asked for), and its line in the file, from 1."""

    text: str
    label: str | None
    line: int


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
    if not path.is_file():
        raise DatasetError(f"{path} is not a file", path=path)
    try:
        for line, record in reader(path, columns, on_bad_row):
            try:
                yield _usable_row(path, line, record, columns)
            except DatasetError as error:
                on_bad_row(error)
    except OSError as exc:
        raise DatasetError(f"cannot read {path}: {exc.strerror or exc}", path=path) from exc


Record = tuple[int, dict[str, Any]]


def _read_csv(path: Path, columns: Columns, on_bad_row: BadRow) -> Iterator[Record]:
    # The limit is the csv module's own global; a text at our limit must fit, quotes and all.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * columns.max_text_chars))
    reader = csv.reader(_lines(path), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        try:
            values = next(reader, None)
        except csv.Error as exc:
            raise DatasetError(
                f"{path}:{line}: not well-formed from here on ({exc}); is a quote left open?", path=path, line=line
            ) from exc
        if values is None:
            break
        if header is None:
            header = values
            _require_columns(path, header, columns)
        elif len(values) == len(header):
            yield line, dict(zip(header, values, strict=True))
        elif values:
            on_bad_row(DatasetError(f"{path}:{line}: {len(values)} fields, wanted {len(header)}", path=path, line=line))
        line = reader.line_num + 1
    if header is None:
        raise DatasetError(f"{path} is empty; wanted a header line and rows", path=path)


def _read_jsonl(path: Path, columns: Columns, on_bad_row: BadRow) -> Iterator[Record]:
    for line, content in enumerate(_lines(path), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except (json.JSONDecodeError, RecursionError) as exc:
            on_bad_row(DatasetError(f"{path}:{line}: not JSON: {exc}", path=path, line=line))
            continue
        if not isinstance(record, dict):
            on_bad_row(DatasetError(f"{path}:{line}: {type(record).__name__}, wanted an object", path=path, line=line))
            continue
        _require_columns(path, list(record), columns, line=line)
        yield line, record


def _read_parquet(path: Path, columns: Columns, on_bad_row: BadRow) -> Iterator[Record]:
    with requires("reading Parquet files"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    wanted = [name for name in (columns.text, columns.label) if name is not None]
    try:
        with pq.ParquetFile(path) as file:
            _require_columns(path, file.schema_arrow.names, columns)
            line = 0
            for batch in file.iter_batches(columns=wanted):
                for record in batch.to_pylist():
                    line += 1
                    yield line, record
    except pa.ArrowException as exc:
        raise DatasetError(f"{path} is not a whole Parquet file: {exc}", path=path) from exc


def _lines(path: Path) -> Iterator[str]:
    """Yield lines; a byte that is not UTF-8 becomes a lone surrogate, so that its row can be named and refused."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            yield line.decode("utf-8-sig" if number == 0 else "utf-8", errors="surrogateescape")


def _require_columns(path: Path, present: list[str], columns: Columns, *, line: int | None = None) -> None:
    for flag, name in (("--text-column", columns.text), ("--label-column", columns.label)):
        if name is not None and name not in present:
            where = path if line is None else f"{path}:{line}"
            seen = ", ".join(map(repr, present)) or "none"
            raise DatasetError(f"{where} has no column {name!r}; it has {seen}: name it with {flag}", path=path, line=line)


def _usable_row(path: Path, line: int, record: dict[str, Any], columns: Columns) -> Row:
    text = record[columns.text]
    problem = _problem_with(text, columns.max_text_chars)
    if problem is None and columns.label is None:
        return Row(text, None, line)
    label = None if columns.label is None else _label_text(record[columns.label])
    if problem is None and label is None:
        problem = f"the label is {record[columns.label or '']!r}, wanted a name or a whole number"
    if problem is not None:
        raise DatasetError(f"{path}:{line}: {problem} (--skip-bad-rows leaves such rows out)", path=path, line=line)
    return Row(text, label, line)


def _problem_with(text: object, max_text_chars: int) -> str | None:
    if not isinstance(text, str):
        return f"the text is {type(text).__name__}, wanted a string"
    if not text.strip():
        return "the text is empty"
    if len(text) > max_text_chars:
        return f"the text has {len(text):,} characters, more than --max-text-chars {max_text_chars:,}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text is not UTF-8; save the file as UTF-8"
    return None


def _label_text(value: object) -> str | None:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if isinstance(value, bool) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        return None
    return str(value).strip() or None
