"""Cut rows into parts. Part boundaries depend only on the rows, so that any machine can produce the same part again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from distill.data.files import values_of
from distill.errors import requires
from distill.texts import parts_of
from serve.bulk.inputs import CHUNK_ROWS, BadRow, InputFile, Record, beginning, cut, rows_of
from serve.bulk.settings import ScoreSettings
from serve.bulk.streams import dictionary_bytes

logger = logging.getLogger(__name__)

with requires("bulk scoring"):
    import pyarrow as pa
    import pyarrow.compute as pc

CHUNK_CHARS = 8 * 2**20
"""Characters of text after which a chunk ends."""

STEP_ROWS = 256
"""Rows of a Parquet file that are decoded at a time."""

DECODED_BYTES = 256 * 2**20
MAX_DICTIONARY_BYTES = 64 * 2**20
"""A dictionary has values that many rows share: decoded, they can be thousands of times as large as the file."""

PART_BYTES = 32 * 2**20
"""Characters of text after which a part ends: long texts make parts of fewer rows, so that memory stays flat."""


class Rows(NamedTuple):
    """Rows as they were read.

    Attributes:
        texts: Values of the text column, of any type; of pairs, a tuple of both values each.
        lines: Row or line of each text, from 1.
        kept: The kept columns, in tables; together they have as many rows as there are texts.
        malformed: Rows that could not be read.
    """

    texts: list[Any]
    lines: list[int]
    kept: list[pa.Table]
    malformed: list[BadRow]


@dataclass(frozen=True)
class RawPart:
    """A part before scoring.

    Attributes:
        name: Its name in the output.
        source: Name of the input file.
        rows: Its rows.
    """

    name: str
    source: str
    rows: Rows


def raw_parts(
    source: InputFile, number: int, schema: pa.Schema, settings: ScoreSettings, *, done: frozenset[str] = frozenset()
) -> Iterator[RawPart]:
    """Yield the parts of a file in order, one in memory at a time; skip those named in `done`.

    Raises:
        DatasetError: The file is truncated, or has changed.
    """
    for place, rows in enumerate(_parts_of(source, schema, settings)):
        name = f"part-{number:05d}-{place:06d}"
        if name not in done:
            yield RawPart(name, source.name, rows)
    source.require_unchanged()


def _parts_of(source: InputFile, schema: pa.Schema, settings: ScoreSettings) -> Iterator[Rows]:
    """Join chunks until another one could exceed the rows of a part, or the texts are long."""
    chunk_rows = min(CHUNK_ROWS, settings.part_rows)
    waiting, size = list[Rows](), 0
    for chunk in (_parquet_chunks if source.kind == "parquet" else _text_chunks)(source, schema, settings, chunk_rows):
        waiting.append(chunk)
        size += sum(len(part) for text in chunk.texts for part in parts_of(text) if isinstance(part, str))
        if len(waiting) == settings.part_rows // chunk_rows or size >= PART_BYTES:
            yield _joined(waiting)
            waiting, size = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(chunks: Sequence[Rows]) -> Rows:
    return Rows(*(list(chain.from_iterable(values)) for values in zip(*chunks, strict=True)))


def _text_chunks(source: InputFile, schema: pa.Schema, settings: ScoreSettings, rows: int) -> Iterator[Rows]:
    found = (_with_all_columns(row, settings) for row in rows_of(source, settings, say=logger.info))
    while taken := list(_first_of(found, rows)):
        chunk = _chunk_of([row for row in taken if not isinstance(row, BadRow)], schema, settings)
        chunk.malformed.extend(row for row in taken if isinstance(row, BadRow))
        yield chunk


def _first_of(found: Iterator[Record | BadRow], rows: int) -> Iterator[Record | BadRow]:
    """Yield the next rows: as many as asked for, or fewer if they are long."""
    chars = 0
    for count, row in enumerate(found, start=1):
        yield row
        if not isinstance(row, BadRow):
            chars += sum(len(value) for value in row[1].values() if isinstance(value, str))
        if count == rows or chars >= CHUNK_CHARS:
            return


def _with_all_columns(row: Record | BadRow, settings: ScoreSettings) -> Record | BadRow:
    """Return a row, as a bad one if it lacks a column that may not be missing."""
    if isinstance(row, BadRow):
        return row
    line, values = row
    for name in settings.kept:  # without a text, a row is a bad one anyway
        if name not in values and name not in settings.optional_columns:
            return BadRow(line, f"it has no column {name!r}", beginning(values.get(settings.text_column)))
    return row


def _chunk_of(records: Sequence[Record], schema: pa.Schema, settings: ScoreSettings) -> Rows:
    """Return these records; one with a value that is not of its column's type is a bad row."""
    lines = [line for line, _ in records]
    texts = _texts_of([[record.get(name) for _, record in records] for name in settings.text_columns])
    try:
        columns = [pa.array([record.get(field.name) for _, record in records], field.type) for field in schema]
        return Rows(texts, lines, [pa.table(columns, schema=schema)], [])
    except (pa.ArrowException, TypeError, OverflowError) as exc:
        if len(records) > 1:
            return _joined([_chunk_of([record], schema, settings) for record in records])
        bad = BadRow(lines[0], f"a kept column does not have the type of the first rows: {exc}", beginning(texts[0]))
        return Rows([], [], [], [bad])


def _texts_of(columns: Sequence[list[Any]]) -> list[Any]:
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _parquet_chunks(source: InputFile, schema: pa.Schema, settings: ScoreSettings, rows: int) -> Iterator[Rows]:
    wanted = list(dict.fromkeys((*settings.text_columns, *settings.kept)))
    line = 1
    try:
        with source.opened_parquet() as file:
            step = _step_of(source, file, wanted, rows)
            waiting, chars = list[Rows](), 0
            for table in _of_equal_size(file.iter_batches(batch_size=step, columns=wanted, use_threads=False), step):
                texts = _texts_of([_cut_values(table.column(name), settings) for name in settings.text_columns])
                lines = [*range(line, line + len(table))]
                kept = table.select(schema.names).cast(schema)
                _require_short(source, kept, settings)
                waiting.append(Rows(texts, lines, [kept], []))
                line += len(table)
                chars += sum(len(part) for text in texts for part in parts_of(text) if isinstance(part, str))
                if (len(waiting) + 1) * step > rows or chars >= CHUNK_CHARS:
                    yield _joined(waiting)
                    waiting, chars = [], 0
            if waiting:
                yield _joined(waiting)
    except (pa.ArrowException, OSError, KeyError) as exc:
        raise source.error(f" is no longer a whole Parquet file: {exc}") from exc


def _cut_values(column: pa.ChunkedArray, settings: ScoreSettings) -> list[Any]:
    return [cut(value, settings.max_text_chars + 1) for value in values_of(column)]


def _require_short(source: InputFile, kept: pa.Table, settings: ScoreSettings) -> None:
    for name in kept.column_names:
        column = kept.column(name)
        if name not in settings.text_columns and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            longest = pc.max(pc.utf8_length(column)).as_py() or 0
            if longest > settings.max_text_chars:
                raise source.error(
                    f": column {name!r} has a value of {longest:,} characters, more than --max-text-chars "
                    f"{settings.max_text_chars:,}; do not copy it"
                )


def _step_of(source: InputFile, file: Any, wanted: Sequence[str], rows: int) -> int:
    """Return how many rows can be decoded at a time, however long the values are that they share.

    Raises:
        DatasetError: A dictionary is so large that a few rows of it could fill the memory.
    """
    largest = 0
    for group in range(file.metadata.num_row_groups):
        for place in range(file.metadata.num_columns):
            chunk = file.metadata.row_group(group).column(place)
            if chunk.path_in_schema.split(".")[0] in wanted and chunk.has_dictionary_page:
                largest = max(largest, dictionary_bytes(source.url, chunk.dictionary_page_offset))
    if largest > MAX_DICTIONARY_BYTES:
        raise source.error(
            f": a dictionary of {largest:,} bytes, at most {MAX_DICTIONARY_BYTES:,} is read; write the file with the usual "
            "size of dictionary pages"
        )
    return min(rows, STEP_ROWS, max(1, DECODED_BYTES // max(1, largest)))


def _of_equal_size(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Yield tables of `rows` rows: where the reader cuts depends on row groups and on its version."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        table = pa.Table.from_batches([*waiting, batch])
        while len(table) >= rows:
            yield table.slice(0, rows)
            table = table.slice(rows)
        waiting = table.to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting)
