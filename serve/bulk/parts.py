"""Rows cut into parts that are the same at every run.

Where a part begins and ends depends on the rows alone, so that a part can be made again, anywhere, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distill.data.files import values_of
from distill.errors import DatasetError, requires
from serve.bulk.inputs import CHUNK_ROWS, BadRow, InputFile, beginning, opened_lines, opened_parquet, records_of
from serve.bulk.settings import ScoreSettings

with requires("bulk scoring"):
    import pyarrow as pa

PART_BYTES = 32 * 2**20
"""Text of a part, about: longer texts make parts of fewer rows, so that memory stays flat."""


class PartName(NamedTuple):
    """Which part: number of the file, and of the part in it."""

    source: int
    number: int

    def __str__(self) -> str:
        return f"part-{self.source:05d}-{self.number:06d}"


@dataclass
class RawPart:
    """Rows as they were read.

    Attributes:
        name: Which part.
        texts: The text column, whatever it holds.
        lines: Row or line of each, from 1.
        kept: The kept columns, as many rows.
        malformed: Rows that could not even be read.
    """

    name: PartName
    texts: list[Any] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    kept: list[pa.RecordBatch] = field(default_factory=list)
    malformed: list[BadRow] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Rows of any kind."""
        return len(self.texts) + len(self.malformed)


def raw_parts(
    source: InputFile, number: int, schema: pa.Schema, settings: ScoreSettings, *, done: frozenset[str] = frozenset()
) -> Iterator[RawPart]:
    """Yield the parts of a file, in order, holding one in memory; those that are done are passed over.

    Raises:
        DatasetError: The file is cut, or no longer as it was.
    """
    part, size = RawPart(PartName(number, 0)), 0
    for chunk in _chunks(source, schema, settings, settings.part_rows):
        part.texts += chunk.texts
        part.lines += chunk.lines
        part.kept += chunk.kept
        part.malformed += chunk.malformed
        size += sum(len(text) for text in chunk.texts if isinstance(text, str))
        if part.num_rows >= settings.part_rows or size >= PART_BYTES:
            if str(part.name) not in done:
                yield part
            part, size = RawPart(PartName(number, part.name.number + 1)), 0
    if part.num_rows and str(part.name) not in done:
        yield part


def _chunks(source: InputFile, schema: pa.Schema, settings: ScoreSettings, part_rows: int) -> Iterator[RawPart]:
    rows = min(CHUNK_ROWS, part_rows)
    if source.kind == "parquet":
        yield from _parquet_chunks(source, schema, settings, rows)
        return
    chunk, records = RawPart(PartName(0, 0)), []
    with opened_lines(source) as lines:
        for line, record in records_of(source, lines, settings, chunk.malformed):
            chunk.lines.append(line)
            chunk.texts.append(record.get(settings.text_column))
            records.append(record)
            if chunk.num_rows >= rows:
                yield _with_kept(chunk, records, schema)
                chunk.malformed.clear()
                chunk, records = RawPart(PartName(0, 0), malformed=chunk.malformed), []
    if chunk.num_rows:
        yield _with_kept(chunk, records, schema)


def _with_kept(chunk: RawPart, records: list[dict[str, Any]], schema: pa.Schema) -> RawPart:
    """Return the chunk with its kept columns; a row whose value is not of its column's type is a bad one."""
    try:
        kept = [_batch_of(records, schema)]
        lines, texts, malformed = chunk.lines, chunk.texts, list(chunk.malformed)
    except (pa.ArrowException, TypeError, OverflowError):
        kept, lines, texts, malformed = [], [], [], list(chunk.malformed)
        for line, text, record in zip(chunk.lines, chunk.texts, records, strict=True):
            try:
                kept.append(_batch_of([record], schema))
            except (pa.ArrowException, TypeError, OverflowError) as exc:
                malformed.append(BadRow(line, f"a kept column is not what it was in the first rows: {exc}", beginning(text)))
            else:
                lines.append(line)
                texts.append(text)
    return RawPart(chunk.name, texts, lines, kept, malformed)


def _batch_of(records: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array([record.get(each.name) for record in records], each.type) for each in schema]
    # A column that is always there, so that a batch without kept columns still has rows.
    return pa.RecordBatch.from_arrays([*arrays, pa.nulls(len(records))], [*schema.names, ""])


def _parquet_chunks(source: InputFile, schema: pa.Schema, settings: ScoreSettings, rows: int) -> Iterator[RawPart]:
    wanted = list(dict.fromkeys((settings.text_column, *settings.kept)))
    line = 1
    try:
        with opened_parquet(source.url, source.name) as table:
            for batch in _of_equal_size(table.iter_batches(batch_size=rows, columns=wanted, use_threads=False), rows):
                texts = values_of(batch.column(settings.text_column))
                arrays = [batch.column(name) for name in schema.names]
                kept = pa.RecordBatch.from_arrays([*arrays, pa.nulls(len(texts))], [*schema.names, ""])
                yield RawPart(PartName(0, 0), texts, list(range(line, line + len(texts))), [kept])
                line += len(texts)
    except (pa.ArrowException, OSError, KeyError) as exc:
        if isinstance(exc, DatasetError):
            raise
        raise DatasetError(f"{source.name} is not a whole Parquet file any more: {exc}", path=source.name) from exc


def _of_equal_size(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Cut batches anew: row groups and versions of the reader cut them in ways of their own."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows).combine_chunks().to_batches()[0]
            waiting, count = table.slice(rows).to_batches(), count - rows
    if count:
        yield pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]
