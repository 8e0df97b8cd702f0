"""Rows of CSV, TSV, JSONL and Parquet files, read one at a time, each with its line number.

Decides which rows are usable; knows nothing of splits or label names.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from distill.data.formats import LABEL_NAMES, MAX_LINE_CHARS, TEXT_NAMES, TextForm, csv_rows, open_text, usual_column
from distill.data.values import label_text
from distill.errors import DatasetError, requires
from distill.texts import TextInput

logger = logging.getLogger(__name__)

_LOGITS = TypeAdapter(list[FiniteFloat])

# What a byte that is not UTF-8 is read as, see `open_text`; the only characters that cannot be encoded as UTF-8.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Columns:
    """Which columns to read.

    Attributes:
        text: Column with the text.
        label: Column with the label; None reads texts without labels.
        max_text_chars: Longest text accepted, in characters.
        label_separator: Separator between several labels of a text, in multi-label data.
        logits: Column with a list of numbers, one per label: a JSON list in CSV files, a list in JSONL and Parquet files.
        pair: Column with the second text of sentence pairs; None reads single texts.
    """

    text: str
    label: str | None
    max_text_chars: int
    label_separator: str | None = None
    logits: str | None = None
    pair: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of all columns to read."""
        return [name for name in (self.text, self.label, self.logits, self.pair) if name is not None]

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names that a header is expected to have: the given ones, and usual ones in place of a default."""
        usual = {"text": TEXT_NAMES, "label": LABEL_NAMES}
        return tuple(name for each in self.names for name in usual.get(each, (each,)))

    def found_in(self, source: Path | str, present: Sequence[str]) -> Columns:
        """Return these columns with usual names in place of defaults that are not present."""
        text = usual_column(source, present, self.text, role="text")
        label = self.label and usual_column(source, present, self.label, role="label", taken=text)
        return replace(self, text=text, label=label)

    def note(self, source: Path | str, asked: Columns) -> list[str]:
        """Return a sentence on the columns that are not those asked for; none if they are."""
        roles = {"text": (self.text, asked.text), "label": (self.label, asked.label)}
        named = [f"the {role} is column {found!r}" for role, (found, wanted) in roles.items() if found != wanted]
        return [f"{source}: {', '.join(named)}"] if named else []


@dataclass(frozen=True)
class Row:
    """One text or pair, its label as written (None if not read, a tuple in multi-label data), its line from 1, its logits."""

    text: TextInput
    label: str | tuple[str, ...] | None
    line: int
    logits: tuple[float, ...] | None = None


Record = tuple[int, dict[str, Any]]
"""A line number and the columns of that line."""

OnBadRow = Callable[[DatasetError], None]
"""Called with the error of each unusable row; raises it to stop, or returns to skip the row."""

Say = Callable[[str], object]
"""Called with a sentence for the user."""


@dataclass
class BadRows:
    """An `OnBadRow` that raises the first error, or, with `skip`, counts the rows and keeps the first error only."""

    skip: bool
    count: int = 0
    first: DatasetError | None = None

    def __call__(self, error: DatasetError) -> None:
        """Raise the error of an unusable row, or count it."""
        if not self.skip:
            raise error
        self.count += 1
        self.first = self.first or error

    def note(self, source: str) -> str:
        """Return a sentence on how many rows of `source` were skipped, with the first error."""
        return f"{source}: skipped {self.count} unusable rows; the first: {self.first}"

    def texts(self, source: str, rows: Iterable[Row]) -> Iterator[TextInput]:
        """Yield the texts of rows; in the end log a warning if rows were skipped."""
        for row in rows:
            yield row.text
        if self.count:
            logger.warning("%s", self.note(source))


def read_rows(path: Path, columns: Columns, on_bad_row: OnBadRow, *, say: Say = logger.info) -> Iterator[Row]:
    """Yield the rows of a file, in order, without holding the file in memory.

    Args:
        path: A .csv, .tsv, .jsonl (.ndjson) or .parquet file.
        columns: Names of the columns to read.
        on_bad_row: Called for a row that is empty, too long, of a wrong type or not UTF-8.
        say: Called with a sentence on what was detected and is not what the name of the file and the settings say.

    Raises:
        DatasetError: The file is missing, of an unknown format or truncated, or lacks a column.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path} has an unknown format; expected a name ending in {', '.join(readers)}", path=path)
    try:
        if not path.is_file():
            raise DatasetError(f"{path} is not a file", path=path)
        for found, record in reader(path, columns, on_bad_row, say):
            yield from usable_rows(path, (record,), found, on_bad_row)
    except OSError as exc:
        raise DatasetError(f"cannot read {path}: {exc.strerror or exc}", path=path) from exc


def usable_rows(source: Path | str, records: Iterable[Record], columns: Columns, on_bad_row: OnBadRow) -> Iterator[Row]:
    """Yield records as rows; call `on_bad_row` with the error of each unusable one."""
    for line, record in records:
        try:
            row = _usable_row(source, line, record, columns)
        except DatasetError as error:
            on_bad_row(error)
        else:
            yield row


def require_columns(source: Path | str, present: list[str], columns: Columns, *, line: int | None = None) -> None:
    """Check that a table, or with `line` one record of a JSONL file, has each wanted column once."""
    where = source if line is None else f"{source}:{line}"
    wanted = {"--text-column": columns.text, "--label-column": columns.label, "--teacher-logits-column": columns.logits}
    wanted["--pair-column"] = columns.pair
    missing = {flag: name for flag, name in wanted.items() if name is not None and name not in present}
    if missing:
        names, seen = " and no column ".join(map(repr, missing.values())), ", ".join(map(repr, present)) or "none"
        raise DatasetError(
            f"{where} has no column {names}; its columns: {seen}; set the name with {' and '.join(missing)}",
            path=source,
            line=line,
        )
    for name in wanted.values():
        if name is not None and present.count(name) > 1:
            raise DatasetError(f"{where} has {present.count(name)} columns named {name!r}, expected 1", path=source, line=line)


def _read_csv(path: Path, columns: Columns, on_bad_row: OnBadRow, say: Say) -> Iterator[tuple[Columns, Record]]:
    kind = path.suffix.lower().removeprefix(".")
    with path.open("rb") as file:
        opened = open_text(path, file, kind=kind, wanted=columns.wanted)
        header, records = csv_records(
            path, opened.lines, form=opened.form, max_field_chars=columns.max_text_chars, on_bad_row=on_bad_row
        )
        found = columns.found_in(path, header)
        require_columns(path, header, found)
        for note in (*opened.form.notes(path, kind), *found.note(path, columns)):
            say(note)
        for record in records:
            yield found, record


def csv_records(
    path: Path | str, lines: Iterable[str], *, form: TextForm, max_field_chars: int, on_bad_row: OnBadRow
) -> tuple[list[str], Iterator[Record]]:
    """Read CSV lines: return the header and an iterator over the records below it.

    Args:
        path: File of the lines, for messages.
        lines: With their line ends.
        form: Delimiter and quoting.
        max_field_chars: Fields up to this length are accepted.
        on_bad_row: Called for a row with another number of fields than the header.

    Raises:
        DatasetError: There is no header, or a quote is not closed.
    """
    # A quote that is not closed swallows the rest of the file, up to this limit. A shorter field is at most one bad row.
    # The limit is a global of the csv module; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARS, max_field_chars))
    rows = _csv_rows(path, csv_rows(lines, form))
    _, header = next(rows, (0, None))
    if header is None:
        raise DatasetError(f"{path} is empty; expected a header line and rows", path=path)
    return header, _csv_records(path, header, rows, on_bad_row)


def _csv_rows(path: Path | str, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its fields."""
    line = 1
    try:
        for values in reader:
            yield line, values
            line = reader.line_num + 1
    except csv.Error as exc:
        raise DatasetError(
            f"{path}:{line}: not well-formed CSV from this line on ({exc}); is a quote not closed?", path=path, line=line
        ) from exc


def _csv_records(
    path: Path | str, header: list[str], rows: Iterable[tuple[int, list[str]]], on_bad_row: OnBadRow
) -> Iterator[Record]:
    for line, values in rows:
        if len(values) == len(header):
            yield line, dict(zip(header, values, strict=True))
        elif values:
            on_bad_row(DatasetError(f"{path}:{line}: {len(values)} fields, expected {len(header)}", path=path, line=line))


def _read_jsonl(path: Path, columns: Columns, on_bad_row: OnBadRow, say: Say) -> Iterator[tuple[Columns, Record]]:
    found: Columns | None = None
    with path.open("rb") as file:
        opened = open_text(path, file, kind="jsonl")
        for note in opened.form.notes(path, "jsonl"):
            say(note)
        for line, content in enumerate(opened.lines, start=1):
            if not content.strip():
                continue
            try:
                record = json_object(path, line, content)
                if found is None:  # the first object decides
                    found = columns.found_in(path, list(record))
                    for note in found.note(path, columns):
                        say(note)
                require_columns(path, list(record), found, line=line)
            except DatasetError as error:
                on_bad_row(error)
            else:
                yield found, (line, record)


def json_object(path: Path | str, line: int, content: str) -> dict[str, Any]:
    """Return one line of a JSONL file.

    Raises:
        DatasetError: It is not a JSON object.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as exc:  # an integer of 5,000 digits is a bare ValueError
        raise DatasetError(f"{path}:{line}: not valid JSON: {exc}", path=path, line=line) from exc
    if not isinstance(record, dict):
        raise DatasetError(f"{path}:{line}: {type(record).__name__}, expected a JSON object", path=path, line=line)
    return record


def _read_parquet(
    path: Path,
    columns: Columns,
    on_bad_row: OnBadRow,  # noqa: ARG001  (one signature)
    say: Say,
) -> Iterator[tuple[Columns, Record]]:
    with requires("reading Parquet files"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    line = 0
    try:
        with pq.ParquetFile(path) as file:
            found = columns.found_in(path, file.schema_arrow.names)
            require_columns(path, file.schema_arrow.names, found)
            for note in found.note(path, columns):
                say(note)
            for batch in file.iter_batches(columns=found.names):
                for values in zip(*map(values_of, batch.columns), strict=True):
                    line += 1
                    yield found, (line, dict(zip(batch.schema.names, values, strict=True)))
    except pa.ArrowException as exc:
        raise DatasetError(f"{path} is not a complete Parquet file: {exc}", path=path) from exc


def values_of(column: Any) -> list[Any]:
    """Return the values of an Arrow column; a byte that is not UTF-8 becomes a lone surrogate, as in `open_text`."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        values = column.cast("large_binary").to_pylist()
        return [None if value is None else value.decode(errors="surrogateescape") for value in values]


def _usable_row(source: Path | str, line: int, record: dict[str, Any], columns: Columns) -> Row:
    text = record[columns.text]
    label = None if columns.label is None else _label_of(record[columns.label], columns.label_separator)
    logits = None if columns.logits is None else _logits_of(record[columns.logits])
    problem = problem_with(text, columns.max_text_chars)
    if problem is None and columns.pair is not None:
        problem = problem_with(record[columns.pair], columns.max_text_chars)
        problem = problem and f"in {columns.pair!r}, {problem}"
    if problem is None and columns.label is not None:
        if label is None:
            problem = f"the label is {record[columns.label]!r}, expected a name or a whole number"
        elif _LONE_SURROGATE.search("".join(label)):
            problem = f"the label {label!r} is not UTF-8; save the file as UTF-8"
    if problem is None and columns.logits is not None and logits is None:
        problem = f"the teacher logits are {record[columns.logits]!r}, expected a list of numbers such as [-1.5, 2.25]"
    if problem is not None:
        raise DatasetError(f"{source}:{line}: {problem} (--skip-bad-rows skips such rows)", path=source, line=line)
    return Row(text if columns.pair is None else (text, record[columns.pair]), label, line, logits)


def problem_with(text: object, max_text_chars: int) -> str | None:
    """Return why a text is unusable, for messages; None if it is usable."""
    if not isinstance(text, str):
        return f"the text is {type(text).__name__}, expected a string"
    if not text.strip():
        return "the text is empty"
    if len(text) > max_text_chars:
        return f"the text has {len(text):,} characters, more than --max-text-chars {max_text_chars:,}"
    return "the text is not UTF-8; save the file as UTF-8" if _LONE_SURROGATE.search(text) else None


def _logits_of(value: object) -> tuple[float, ...] | None:
    """Return the logits of a row, from a list or a JSON list; None if it is not a list of finite numbers."""
    try:
        if isinstance(value, str):
            return tuple(_LOGITS.validate_json(value, strict=True)) or None
        return tuple(_LOGITS.validate_python(value, strict=True)) or None
    except ValidationError:
        return None


def _label_of(value: object, separator: str | None) -> str | tuple[str, ...] | None:
    """Return a label, or all labels if the value is a list or there is a separator; None if one is unusable."""
    if separator is not None and not isinstance(value, list):
        is_empty = value is None or (isinstance(value, str) and not value.strip())
        value = [] if is_empty else value.split(separator) if isinstance(value, str) else [value]
    if not isinstance(value, list):
        return label_text(value)
    names = tuple(dict.fromkeys(map(label_text, value)))
    return None if None in names else names  # type: ignore[return-value]  # mypy does not narrow the elements
