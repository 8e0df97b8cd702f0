"""Cut rows into parts. Part boundaries depend only on the rows, so that any machine can produce the same part again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distill.data.files import values_of
from distill.errors import DatasetError, requires
from serve.bulk.inputs import CHUNK_ROWS, BadRow, InputFile, Record, beginning, opened_parquet, records_of
from serve.bulk.settings import ScoreSettings

with requires("bulk scoring"):
    import pyarrow as pa

PART_BYTES = 32 * 2**20
"""Characters of text after which a part ends: long texts make parts of fewer rows, so that memory stays flat."""


class PartName(NamedTuple):
    """Number of the input file, and number of the part in it."""

    source: int
    number: int

    def __str__(self) -> str:
        return f"part-{self.source:05d}-{self.number:06d}"


@dataclass
class RawPart:
    """Rows as they were read.

    Attributes:
        name: Which part.
        texts: Values of the text column, of any type.
        lines: Row or line of each text, from 1.
        kept: The kept columns, in batches; together they have as many rows as there are texts.
        malformed: Rows that could not be read.
    """

    name: PartName
    texts: list[Any] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    kept: list[pa.RecordBatch] = field(default_factory=list)
    malformed: list[BadRow] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """All rows, malformed ones included."""
        return len(self.texts) + len(self.malformed)


class Chunk(NamedTuple):
    """Rows that are read, and later answered, together; the fields are those of `RawPart`."""

    texts: list[Any]
    lines: list[int]
    kept: list[pa.RecordBatch]
    malformed: list[BadRow]


def raw_parts(
    source: InputFile, number: int, schema: pa.Schema, settings: ScoreSettings, *, done: frozenset[str] = frozenset()
) -> Iterator[RawPart]:
    """Yield the parts of a file in order, one in memory at a time; skip those named in `done`.

    Raises:
        DatasetError: The file is truncated, or has changed.
    """
    part, size = RawPart(PartName(number, 0)), 0
    chunks = _parquet_chunks if source.kind == "parquet" else _text_chunks
    for chunk in chunks(source, schema, settings, min(CHUNK_ROWS, settings.part_rows)):
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


def _text_chunks(source: InputFile, schema: pa.Schema, settings: ScoreSettings, rows: int) -> Iterator[Chunk]:
    records: list[Record] = []
    malformed: list[BadRow] = []
    for record in records_of(source, settings, malformed):
        records.append(record)
        if len(records) + len(malformed) >= rows:
            yield _chunk_of(records, malformed, schema, settings.text_column)
            records.clear()
            malformed.clear()
    if records or malformed:
        yield _chunk_of(records, malformed, schema, settings.text_column)


def _chunk_of(records: list[Record], malformed: list[BadRow], schema: pa.Schema, text_column: str) -> Chunk:
    """Return a chunk of these records; one with a value that is not of its column's type is a bad row."""
    chunk = Chunk([], [], [], list(malformed))

    def add(records: Sequence[Record]) -> None:
        try:
            kept = _batch_of(
                [pa.array([record.get(each.name) for _, record in records], each.type) for each in schema], schema, len(records)
            )
        except (pa.ArrowException, TypeError, OverflowError) as exc:
            if len(records) > 1:
                for each in records:
                    add([each])
                return
            [(line, record)] = records
            reason = f"a kept column does not have the type of the first rows: {exc}"
            chunk.malformed.append(BadRow(line, reason, beginning(record.get(text_column))))
        else:
            chunk.kept.append(kept)
            chunk.lines.extend(line for line, _ in records)
            chunk.texts.extend(record.get(text_column) for _, record in records)

    if records:
        add(records)
    return chunk


def _batch_of(columns: Sequence[pa.Array], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    # One column more, without a name: a batch has a length even where no column is kept.
    return pa.RecordBatch.from_arrays([*columns, pa.nulls(rows)], [*schema.names, ""])


def _parquet_chunks(source: InputFile, schema: pa.Schema, settings: ScoreSettings, rows: int) -> Iterator[Chunk]:
    wanted = list(dict.fromkeys((settings.text_column, *settings.kept)))
    line = 1
    try:
        with opened_parquet(source.url, source.name) as table:
            for batch in _of_equal_size(table.iter_batches(batch_size=rows, columns=wanted, use_threads=False), rows):
                kept = _batch_of([batch.column(name) for name in schema.names], schema, len(batch))
                yield Chunk(values_of(batch.column(settings.text_column)), [*range(line, line + len(batch))], [kept], [])
                line += len(batch)
    except (pa.ArrowException, OSError, KeyError) as exc:
        if isinstance(exc, DatasetError):
            raise
        raise DatasetError(f"{source.name} is no longer a whole Parquet file: {exc}", path=source.name) from exc


def _of_equal_size(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of `rows` rows: where the reader cuts depends on row groups and on its version."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(map(len, waiting)) >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows).combine_chunks().to_batches()[0]
            waiting = table.slice(rows).to_batches()
    if any(map(len, waiting)):
        yield pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]
