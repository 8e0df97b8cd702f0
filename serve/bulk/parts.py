"""Cut rows into parts. Part boundaries depend only on the rows, so that any machine can produce the same part again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

from distill.data.files import values_of
from distill.errors import requires
from distill.texts import parts_of
from serve.bulk.inputs import CHUNK_ROWS, BadRow, InputFile, Record, beginning, rows_of
from serve.bulk.settings import ScoreSettings

logger = logging.getLogger(__name__)

with requires("bulk scoring"):
    import pyarrow as pa

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
    found = rows_of(source, settings, say=logger.info)
    while taken := list(islice(found, rows)):
        chunk = _chunk_of([row for row in taken if not isinstance(row, BadRow)], schema, settings)
        chunk.malformed.extend(row for row in taken if isinstance(row, BadRow))
        yield chunk


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
            for table in _of_equal_size(file.iter_batches(batch_size=rows, columns=wanted, use_threads=False), rows):
                lines = range(line, line + len(table))
                texts = _texts_of([values_of(table.column(name)) for name in settings.text_columns])
                yield Rows(texts, [*lines], [table.select(schema.names).cast(schema)], [])
                line += len(table)
    except (pa.ArrowException, OSError, KeyError) as exc:
        raise source.error(f" is no longer a whole Parquet file: {exc}") from exc


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
