"""Parquet, CSV and JSONL files, local or behind an fsspec URL: find them, read their columns, open them.

Knows nothing of models or of what is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from distill.data.files import csv_records, json_object, text_lines
from distill.errors import DatasetError, requires
from serve.bulk.settings import ScoreSettings

with requires("bulk scoring"):
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

CHUNK_ROWS = 2_048
"""Rows read and answered at a time."""

Record = tuple[int, dict[str, Any]]
"""The line a row begins on, from 1, and its columns."""

_EDGE_BYTES = 64 * 1024
_BEGINNING_CHARS = 200
_KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


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
    if text is None:
        return ""
    return str(text)[:_BEGINNING_CHARS].encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class InputFile:
    """One input file.

    Attributes:
        url: Its location.
        name: Its path below the input the user named; the output refers to it by this name.
        kind: Its format.
        size_bytes: Its size as stored.
        fingerprint: Digest of its size, beginning and end.
        num_rows: Its rows; None when the format does not say.
    """

    url: str
    name: str
    kind: str
    size_bytes: int
    fingerprint: str
    num_rows: int | None = None

    def error(self, problem: str) -> DatasetError:
        """Return the error that this file has a problem."""
        return DatasetError(f"{self.name}{problem}", path=self.name)


def find_inputs(inputs: Sequence[str]) -> list[InputFile]:
    """Return the files behind paths, folders (all files below them) or patterns, in a fixed order.

    Raises:
        DatasetError: One does not exist, or has an unknown format.
    """
    found = [source for each in inputs for source in _files_of(each)]
    if not found:
        raise DatasetError(f"no input: {', '.join(inputs) or '--input'} has no file ending in {', '.join(_KINDS)}")
    return found


def _files_of(named: str) -> Iterator[InputFile]:
    try:
        fs, path = fsspec.core.url_to_fs(named)
        if any(sign in path for sign in "*?["):
            paths, root = sorted(fs.glob(path)), str(PurePosixPath(path.split("*")[0].split("?")[0].split("[")[0]).parent)
        elif fs.isdir(path):
            paths, root = sorted(name for name in fs.find(path) if _is_data(name, path)), path
        else:
            paths, root = [path], str(PurePosixPath(path).parent)
        for each in paths:
            yield _file_of(fs, each, root)
    except (OSError, ImportError, ValueError) as exc:
        if isinstance(exc, DatasetError):
            raise
        raise DatasetError(f"cannot read {named}: {getattr(exc, 'strerror', None) or exc}", path=named) from exc


def _is_data(path: str, root: str) -> bool:
    parts = PurePosixPath(path).relative_to(root).parts if path.startswith(root) else (path,)
    return not any(part.startswith(("_", ".")) for part in parts) and _kind_of(path) is not None


def _kind_of(path: str) -> str | None:
    plain = path.lower()
    for ending in _COMPRESSED:
        plain = plain.removesuffix(ending)
    kind = _KINDS.get(PurePosixPath(plain).suffix)
    return None if kind == "parquet" and plain != path.lower() else kind


def _file_of(fs: Any, path: str, root: str) -> InputFile:
    kind = _kind_of(path)
    if kind is None:
        raise DatasetError(f"{path}: unknown format; the name must end in {', '.join(_KINDS)}", path=path)
    size = int(fs.info(path)["size"])
    with fs.open(path, "rb") as file:
        digest = hashlib.sha256(f"{size}".encode() + file.read(_EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        digest.update(file.read(_EDGE_BYTES))
    name, url = path.removeprefix(root).lstrip("/") or PurePosixPath(path).name, fs.unstrip_protocol(path)
    if kind != "parquet":
        return InputFile(url, name, kind, size, digest.hexdigest())
    with opened_parquet(url, name) as table:
        return InputFile(url, name, kind, size, digest.hexdigest(), table.metadata.num_rows)


def kept_schema(sources: Sequence[InputFile], settings: ScoreSettings) -> pa.Schema:
    """Return names and types of the kept columns, and require the text column. All files must agree.

    Every Parquet file is checked; of other formats only the first file, whose first rows decide.

    Raises:
        DatasetError: A column is missing or not text, or two files disagree.
    """
    schema = _schema_of(sources[0], settings)
    for source in sources[1:]:
        found = _schema_of(source, settings) if source.kind == "parquet" else schema
        if found != schema:
            raise source.error(
                f" has columns {_spelled(found)}, but {sources[0].name} has {_spelled(schema)}; "
                "all files of a job must have the same columns: score them separately"
            )
    return schema


def _spelled(schema: pa.Schema) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in zip(schema.names, schema.types, strict=True)) or "none"


def _schema_of(source: InputFile, settings: ScoreSettings) -> pa.Schema:
    if source.kind == "parquet":
        with opened_parquet(source.url, source.name) as table:
            schema = table.schema_arrow
        _require_names(source, schema.names, settings)
        kind = schema.field(settings.text_column).type
        if not _is_text(kind):
            raise source.error(f": column {settings.text_column!r} is {kind}, wanted text; use --text-column")
        return pa.schema([pa.field(name, schema.field(name).type) for name in settings.kept])
    records = [record for _, record in islice(records_of(source, settings, []), CHUNK_ROWS)]
    if records and source.kind == "jsonl":
        _require_names(source, list(dict.fromkeys(name for record in records for name in record)), settings)
    return pa.schema([pa.field(name, _type_of(source, name, records)) for name in settings.kept])


def _type_of(source: InputFile, name: str, records: Sequence[dict[str, Any]]) -> pa.DataType:
    try:
        kind = pa.array([record.get(name) for record in records]).type
    except pa.ArrowException as exc:
        raise source.error(f": column {name!r} has values of several types: {exc}") from exc
    return pa.string() if pa.types.is_null(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view())


def _require_names(source: InputFile, present: Sequence[str], settings: ScoreSettings) -> None:
    for flag, names in (("--text-column", (settings.text_column,)), ("--key", settings.key), ("--columns", settings.columns)):
        for name in names:
            if present.count(name) != 1:
                seen = ", ".join(map(repr, present)) or "none"
                how = "has more than one column" if name in present else "has no column"
                raise source.error(f" {how} {name!r}; its columns are {seen}: check {flag}")


def opened_parquet(url: str, name: str) -> Any:
    """Open a Parquet file; raises `DatasetError` when it is damaged or truncated."""
    path = url.removeprefix("file://")
    try:
        # pyarrow reads a local file itself, in small reads: a row group may hold all rows.
        file = path if path != url else fsspec.open(url, "rb").open()
        return pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
    except (pa.ArrowException, OSError) as exc:
        raise DatasetError(f"{name} is not a whole Parquet file: {exc}", path=name) from exc


def records_of(source: InputFile, settings: ScoreSettings, malformed: list[BadRow]) -> Iterator[Record]:
    """Yield the records of a CSV or JSONL file, compressed or not; rows that cannot be read go to `malformed`.

    Raises:
        DatasetError: The file ends in the middle of a row, or has no header or no such column.
    """
    with fsspec.open(source.url, "rb", compression="infer") as file:
        lines = _Lines(source, file)

        def leave_out(error: DatasetError) -> None:
            where = f"{source.name}:{error.line}: "
            if not lines.last.endswith("\n"):
                raise source.error(f":{error.line}: the file ends in the middle of a row; copy it again")
            malformed.append(BadRow(error.line or 0, str(error).removeprefix(where), beginning(lines.last)))

        if source.kind != "jsonl":
            delimiter = "\t" if source.kind == "tsv" else ","
            header, records = csv_records(
                source.name, lines, delimiter=delimiter, max_field_chars=settings.max_text_chars, on_bad_row=leave_out
            )
            _require_names(source, header, settings)
            yield from records
            return
        for line, content in enumerate(lines, start=1):
            if content.strip():
                try:
                    record = json_object(source.name, line, content)
                except DatasetError as error:
                    leave_out(error)
                else:
                    yield line, record


class _Lines:
    """The lines of a file; `last` is the one that was read last, with its line end where it has one."""

    def __init__(self, source: InputFile, file: Any) -> None:
        self._source, self._file = source, file
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        try:
            for line in text_lines(self._file):
                self.last = line
                yield line
        except (EOFError, OSError) as exc:
            raise self._source.error(f": cannot read the file to its end: {exc}") from exc
