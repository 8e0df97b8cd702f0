"""Parquet, CSV and JSONL files, local or behind an fsspec URL: find them, read their columns, open them.

Knows nothing of models or of what is written.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from distill.data.files import csv_records, json_object
from distill.data.formats import open_text
from distill.errors import DatasetError, requires
from serve.bulk.settings import ScoreSettings
from serve.bulk.streams import expanded

with requires("bulk scoring"):
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fsspec.implementations.local import LocalFileSystem

CHUNK_ROWS = 2_048
"""Rows read and answered at a time."""

MIN_LINE_CHARS, LINE_PER_TEXT = 2**20, 8
"""A line may have a million characters, or eight times those of the longest text: it has other columns and escapes."""

Record = tuple[int, dict[str, Any]]
"""The line a row begins on, from 1, and its columns."""

_READ_BYTES = 2**20
_HASHED_AT_ONCE = 8
# What a store says of a file that changes with its content, so that the file need not be read: S3, Google, Azure.
_STORED_DIGESTS = ("ETag", "etag", "md5Hash", "content_md5")
_CHANGING = ("size", "mtime", "ino", "ETag", "etag", "LastModified", "last_modified", "updated")
_BEGINNING_CHARS = 200
_ENDINGS = ".parquet, .csv, .tsv, .jsonl, .ndjson"
# Parquet compresses its own pages; only the text formats may be compressed as a whole.
_FORMAT = re.compile(r"\.(?:(parquet)|(csv|tsv|jsonl|ndjson)(?:\.(?:gz|bz2|xz|zst))?)$", re.IGNORECASE)


class BadRow(NamedTuple):
    """A row that cannot be labelled.

    Attributes:
        line: Its line or row, from 1.
        reason: Why.
        begins: The beginning of its text.
        place: Its index among the texts of its part; None when it could not be read.
    """

    line: int
    reason: str
    begins: str
    place: int | None = None


def beginning(text: object) -> str:
    """Return the beginning of a bad row's text, as valid UTF-8."""
    text = " ".join(map(str, text)) if isinstance(text, tuple) else text
    return "" if text is None else str(text)[:_BEGINNING_CHARS].encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class InputFile:
    """One input file.

    Attributes:
        url: Its location.
        name: Its path below the input the user named; the output refers to it by this name.
        kind: Its format: the ending of its name.
        size_bytes: Its size as stored.
        fingerprint: Digest of its whole content, or what its store has in place of one.
        state: Size, time and identity at that moment.
        number: The part of the names of its parts that is its own.
    """

    url: str
    name: str
    kind: str
    size_bytes: int
    fingerprint: str
    state: str = ""
    number: int = 0

    def require_unchanged(self) -> None:
        """Raise `DatasetError` if the file was changed since its fingerprint was taken."""
        fs, path = fsspec.core.url_to_fs(self.url)
        fs.invalidate_cache()
        if _state_of(fs.info(path)) != self.state:
            raise self.error(" changed while it was read: its labels may be of other texts; score it into another folder")

    def error(self, problem: str) -> DatasetError:
        """Return the error that this file has a problem."""
        return DatasetError(f"{self.name}{problem}", path=self.name)

    def expected_rows(self) -> int:
        """Return how many rows the file has: exactly for Parquet, else an estimate of 100 bytes a row."""
        if self.kind == "parquet":
            with self.opened_parquet() as table:
                return int(table.metadata.num_rows)
        return max(1, self.size_bytes // 100)

    def opened_parquet(self) -> Any:
        """Open the Parquet file.

        Raises:
            DatasetError: It is damaged or truncated.
        """
        path = self.url.removeprefix("file://")
        try:
            # pyarrow reads a local file itself, in small reads: a row group may hold all rows.
            return pq.ParquetFile(
                path if path != self.url else fsspec.open(path, "rb").open(), buffer_size=2**20, pre_buffer=False
            )
        except (pa.ArrowException, OSError) as exc:
            raise self.error(f" is not a whole Parquet file: {exc}") from exc


def find_inputs(inputs: Sequence[str], *, follow_links: bool = False) -> list[InputFile]:
    """Return the files behind paths, folders (all files below them) or patterns, in a fixed order.

    Args:
        inputs: What the user named.
        follow_links: Read links below a folder or in a pattern, too; a path that is named is always followed.

    Raises:
        DatasetError: One does not exist, is a link or no file, or has an unknown format.
    """
    found = [place for each in inputs for place in _files_of(each, follow_links=follow_links)]
    if not found:
        raise DatasetError(f"no input: {', '.join(inputs) or '--input'} has no file ending in {_ENDINGS}")
    with ThreadPoolExecutor(_HASHED_AT_ONCE, "fingerprint") as pool:
        sources = list(pool.map(lambda place: _file_of(*place), found))
    return [replace(source, number=number) for number, source in enumerate(sources)]


def _files_of(named: str, *, follow_links: bool) -> Iterator[tuple[Any, str, str]]:
    """Yield the file system, the path and the root of each file."""
    try:
        fs, path = fsspec.core.url_to_fs(named)
        fixed = re.split(r"[*?[]", path)[0]
        paths, root = [path], str(PurePosixPath(fixed).parent)
        if fs.isdir(path):
            # Files and folders whose names begin with _ or . are not data: Spark, Hive and this module write such.
            below = _below(path) if isinstance(fs, LocalFileSystem) and not follow_links else fs.find(path)
            paths = sorted(
                name for name in below if _FORMAT.search(name) and not re.search(r"/[_.]", f"/{name.removeprefix(path)}")
            )
            root = path
        elif fixed != path:
            paths = sorted(fs.glob(path))
        for each in paths:
            if isinstance(fs, LocalFileSystem) and not follow_links and paths != [path]:
                _require_no_link(each, root)
            yield fs, each, root
    except (OSError, ImportError, ValueError) as exc:
        if isinstance(exc, DatasetError):
            raise
        raise DatasetError(f"cannot read {named}: {getattr(exc, 'strerror', None) or exc}", path=named) from exc


def _below(folder: str) -> Iterator[str]:
    """Yield the files below a local folder, and the links to folders in place of what they lead to."""
    for place, folders, files in os.walk(folder):
        yield from (f"{place}/{name}" for name in files)
        for name in folders:
            if not name.startswith(("_", ".")):
                _require_no_link(f"{place}/{name}", place)


def _require_no_link(path: str, root: str) -> None:
    place = Path(path)
    for each in (place, *place.parents):
        if str(each) == root:
            return
        if each.is_symlink():
            raise DatasetError(f"{each} is a link; name the file that it leads to, or use --follow-links", path=path)


def _file_of(fs: Any, path: str, root: str) -> InputFile:
    found = _FORMAT.search(path)
    if found is None:
        raise DatasetError(f"{path}: unknown format; the name must end in {_ENDINGS}", path=path)
    try:
        info = fs.info(path)
        if info["type"] != "file":
            raise DatasetError(f"{path} is no regular file; name a file, a folder or a pattern", path=path)
        fingerprint = next((f"{key} {info[key]}" for key in _STORED_DIGESTS if info.get(key)), None) or _digest_of(fs, path)
    except OSError as exc:
        raise DatasetError(f"cannot read {path}: {exc.strerror or exc}", path=path) from exc
    name = path.removeprefix(root).lstrip("/") or PurePosixPath(path).name
    kind = (found[1] or found[2]).lower()
    return InputFile(fs.unstrip_protocol(path), name, kind, int(info["size"]), fingerprint, _state_of(info))


def _digest_of(fs: Any, path: str) -> str:
    digest = hashlib.sha256()
    with fs.open(path, "rb") as file:
        while content := file.read(_READ_BYTES):
            digest.update(content)
    return digest.hexdigest()


def _state_of(info: dict[str, Any]) -> str:
    return " ".join(f"{key}={info[key]}" for key in _CHANGING if key in info)


def kept_schema(sources: Sequence[InputFile], settings: ScoreSettings) -> pa.Schema:
    """Return names and types of the kept columns, and require the text column. All files must agree.

    Every Parquet file is checked; of other formats only the first file, whose first rows decide.

    Raises:
        DatasetError: A column is missing or not text, or two files disagree.
    """
    schema = _schema_of(sources[0], settings)
    for source in sources[1:]:
        if source.kind == "parquet" and (found := _schema_of(source, settings)) != schema:
            raise source.error(
                f" has columns {_spelled(found)}, but {sources[0].name} has {_spelled(schema)}; "
                "all files of a job must have the same columns: score them separately"
            )
    return schema


def _spelled(schema: pa.Schema) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in zip(schema.names, schema.types, strict=True)) or "none"


def _schema_of(source: InputFile, settings: ScoreSettings) -> pa.Schema:
    if source.kind == "parquet":
        with source.opened_parquet() as table:
            schema = table.schema_arrow
        _require_names(source, schema.names, settings)
        for flag, name in zip(("--text-column", "--pair-column"), settings.text_columns, strict=False):
            kind = schema.field(name).type
            values = kind.value_type if pa.types.is_dictionary(kind) else kind
            if values not in (pa.string(), pa.large_string(), pa.string_view()):
                raise source.error(f": column {name!r} is {kind}, wanted text; use {flag}")
        return pa.schema([(name, schema.field(name).type) for name in settings.kept])
    first = islice(rows_of(source, settings), CHUNK_ROWS)
    records = [row[1] for row in first if not isinstance(row, BadRow)]
    if records and "json" in source.kind:
        _require_names(source, list(dict.fromkeys(name for record in records for name in record)), settings)
    return pa.schema([(name, _type_of(source, name, records)) for name in settings.kept])


def _type_of(source: InputFile, name: str, records: Sequence[dict[str, Any]]) -> pa.DataType:
    try:
        kind = pa.array([record.get(name) for record in records]).type
    except pa.ArrowException as exc:
        raise source.error(f": column {name!r} has values of several types: {exc}") from exc
    return pa.string() if pa.types.is_null(kind) else kind


def _require_names(source: InputFile, present: Sequence[str], settings: ScoreSettings) -> None:
    by_flag = {
        "--text-column": settings.text_columns[:1],
        "--pair-column": settings.text_columns[1:],
        "--key": settings.key,
        "--columns": settings.columns,
    }
    for flag, names in by_flag.items():
        for name in names:
            if present.count(name) != 1:
                problem = "has more than one column" if name in present else "has no column"
                raise source.error(
                    f" {problem} {name!r}; its columns are {', '.join(map(repr, present)) or 'none'}: check {flag}"
                )


def rows_of(
    source: InputFile, settings: ScoreSettings, *, say: Callable[[str], object] | None = None
) -> Iterator[Record | BadRow]:
    """Yield the rows of a CSV or JSONL file, compressed or not, in order; a row that cannot be read is a `BadRow`.

    Args:
        source: The file.
        settings: Columns and limits.
        say: Called with a sentence on each property that was detected and is not what the file's name says.

    Raises:
        DatasetError: The file ends in the middle of a row, or has no header or no such column.
    """
    last_line = ""
    bad: list[BadRow] = []

    def remembered(lines: Iterator[str]) -> Iterator[str]:
        nonlocal last_line
        for line in lines:
            last_line = line
            yield line

    def bad_row(error: DatasetError) -> BadRow:
        if not last_line.endswith("\n"):
            raise source.error(f":{error.line}: the file ends in the middle of a row; copy it again")
        return BadRow(error.line or 0, str(error).removeprefix(f"{source.name}:{error.line}: "), beginning(last_line))

    with expanded(source.url, source.size_bytes, source.error) as file:
        wanted = (*settings.text_columns, *settings.kept)
        limit = max(MIN_LINE_CHARS, LINE_PER_TEXT * settings.max_text_chars)
        opened = open_text(source.name, file, kind=source.kind, wanted=wanted, max_line_chars=limit)
        if say is not None:
            for note in opened.form.notes(source.name, source.kind):
                say(note)
        if "json" in source.kind:
            for row in _json_rows(source.name, remembered(opened.lines), bad_row):
                yield row if isinstance(row, BadRow) else _bounded(row, settings)
            return
        header, records = csv_records(
            source.name,
            remembered(opened.lines),
            form=opened.form,
            max_field_chars=settings.max_text_chars,
            on_bad_row=lambda error: bad.append(bad_row(error)),
        )
        _require_names(source, header, settings)
        for record in records:
            yield from bad
            bad.clear()
            yield _bounded(record, settings)
        yield from bad


def _bounded(record: Record, settings: ScoreSettings) -> Record | BadRow:
    """Return a record without the values of other columns, and with texts cut after the first character too many."""
    line, values = record
    limit = settings.max_text_chars + 1
    for name in settings.kept:
        if name not in settings.text_columns and isinstance(value := values.get(name), str) and len(value) > limit:
            begins = beginning(values.get(settings.text_column))
            return BadRow(line, f"column {name!r} has more than {settings.max_text_chars:,} characters", begins)
    wanted = {*settings.text_columns, *settings.kept}
    return line, {name: cut(value, limit) if name in wanted else None for name, value in values.items()}


def cut(value: object, limit: int) -> object:
    """Return the beginning of a text, so that a huge one is not kept in memory; any other value as it is."""
    return value[:limit] if isinstance(value, str) else value


def _json_rows(name: str, lines: Iterator[str], bad_row: Callable[[DatasetError], BadRow]) -> Iterator[Record | BadRow]:
    for line, content in enumerate(lines, start=1):
        if content.strip():
            try:
                yield line, json_object(name, line, content)
            except DatasetError as error:
                yield bad_row(error)
