"""Parquet, CSV and JSONL files, local or behind an fsspec URL: finding them, what columns they have, opening them.

Knows nothing of models or of what is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

_EDGE_BYTES = 64 * 1024
_BEGINNING_CHARS = 200
_KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


class BadRow(NamedTuple):
    """A row that cannot be labelled: where it stands, why, and how it begins."""

    line: int
    reason: str
    begins: str
    place: int | None = None


def beginning(text: object) -> str:
    """Return how a bad row's text begins, fit to be written."""
    if text is None:
        return ""
    return str(text)[:_BEGINNING_CHARS].encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class InputFile:
    """One input file.

    Attributes:
        url: Where it is.
        name: What rows are known by: its path below what the user named.
        kind: How it is read.
        size_bytes: As it is stored.
        fingerprint: Of its size, beginning and end.
        num_rows: Where the file says so itself.
    """

    url: str
    name: str
    kind: str
    size_bytes: int
    fingerprint: str
    num_rows: int | None = None


def find_inputs(inputs: Sequence[str]) -> list[InputFile]:
    """Return the files of what the user named: files, folders (all below them) or patterns, in a fixed order.

    Raises:
        DatasetError: One is not there, or of no known kind.
    """
    found = [source for each in inputs for source in _sources_of(each)]
    if not found:
        raise DatasetError(f"no input: {', '.join(inputs) or 'nothing was named'} holds no file ending in {', '.join(_KINDS)}")
    return found


def _sources_of(named: str) -> Iterator[InputFile]:
    try:
        fs, path = fsspec.core.url_to_fs(named)
        if any(sign in path for sign in "*?["):
            paths, root = sorted(fs.glob(path)), str(PurePosixPath(path.split("*")[0].split("?")[0].split("[")[0]).parent)
        elif fs.isdir(path):
            paths, root = sorted(name for name in fs.find(path) if _is_data(name, path)), path
        else:
            paths, root = [path], str(PurePosixPath(path).parent)
        for each in paths:
            yield _source_of(fs, each, root)
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


def _source_of(fs: Any, path: str, root: str) -> InputFile:
    kind = _kind_of(path)
    if kind is None:
        raise DatasetError(f"{path}: cannot tell its kind; wanted a name ending in {', '.join(_KINDS)}", path=path)
    size = int(fs.info(path)["size"])
    with fs.open(path, "rb") as file:
        digest = hashlib.sha256(f"{size}".encode() + file.read(_EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        digest.update(file.read(_EDGE_BYTES))
    name = path.removeprefix(root).lstrip("/") or PurePosixPath(path).name
    url = fs.unstrip_protocol(path)
    rows = None
    if kind == "parquet":
        with opened_parquet(url, name) as table:
            rows = table.metadata.num_rows
    return InputFile(url, name, kind, size, digest.hexdigest(), rows)


def kept_schema(sources: Sequence[InputFile], settings: ScoreSettings) -> pa.Schema:
    """Return names and types of the kept columns, and require the text column; what every file must agree with.

    Parquet files are all looked at; of the others the first, whose first rows decide.

    Raises:
        DatasetError: A column is missing or not text, or two files disagree.
    """
    schema = _schema_of(sources[0], settings)
    for source in sources[1:]:
        found = _schema_of(source, settings) if source.kind == "parquet" else schema
        if found != schema:
            raise DatasetError(
                f"{source.name} has columns {_spelled(found)}, {sources[0].name} before it {_spelled(schema)}; "
                "files of one job must agree: score them apart",
                path=source.name,
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
            raise DatasetError(
                f"{source.name}: column {settings.text_column!r} is {kind}, wanted text; name another with --text-column",
                path=source.name,
            )
        return pa.schema([pa.field(name, schema.field(name).type) for name in settings.kept])
    records = []
    with opened_lines(source) as lines:
        for _, record in records_of(source, lines, settings, []):
            records.append(record)
            if len(records) == CHUNK_ROWS:
                break
    if records and source.kind == "jsonl":
        _require_names(source, list(dict.fromkeys(name for record in records for name in record)), settings)
    return pa.schema([pa.field(name, _type_of(source, name, records)) for name in settings.kept])


def _type_of(source: InputFile, name: str, records: Sequence[dict[str, Any]]) -> pa.DataType:
    try:
        kind = pa.array([record.get(name) for record in records]).type
    except pa.ArrowException as exc:
        raise DatasetError(f"{source.name}: column {name!r} holds values of several kinds: {exc}", path=source.name) from exc
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
                how = "has no column" if name not in present else "has more than one column"
                raise DatasetError(f"{source.name} {how} {name!r}; it has {seen}: see {flag}", path=source.name)


def opened_parquet(url: str, name: str) -> Any:
    """Open a Parquet file; raises `DatasetError` where it is not a whole one."""
    path = url.removeprefix("file://")
    try:
        # A local file without Python in between, in small reads: a row group may hold all rows.
        file = path if path != url else fsspec.open(url, "rb").open()
        return pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
    except (pa.ArrowException, OSError) as exc:
        raise DatasetError(f"{name} is not a whole Parquet file: {exc}", path=name) from exc


def opened_lines(source: InputFile) -> Any:
    """Open a text file, whatever it is compressed with."""
    return fsspec.open(source.url, "rb", compression="infer")


def records_of(
    source: InputFile, file: Any, settings: ScoreSettings, malformed: list[BadRow]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line and record; rows that cannot be read go to `malformed`, unless the file ends in the middle of one."""
    lines = _Lines(source, file)

    def leave_out(error: DatasetError) -> None:
        if not lines.whole:
            raise DatasetError(
                f"{source.name}:{error.line}: the file ends in the middle of a row; copy it again", path=source.name
            )
        reason = str(error).removeprefix(f"{source.name}:{error.line}: ")
        malformed.append(BadRow(error.line or 0, reason, beginning(lines.last)))

    if source.kind == "jsonl":
        for line, content in enumerate(lines, start=1):
            if content.strip():
                try:
                    record = json_object(source.name, line, content)
                except DatasetError as error:
                    leave_out(error)
                else:
                    yield line, record
        return
    header, records = csv_records(
        source.name,
        lines,
        delimiter="\t" if source.kind == "tsv" else ",",
        max_field_chars=settings.max_text_chars,
        on_bad_row=leave_out,
    )
    _require_names(source, header, settings)
    yield from records


class _Lines:
    """Lines of a file, and whether the last one had its end."""

    def __init__(self, source: InputFile, file: Any) -> None:
        self._source = source
        self._lines = text_lines(file)
        self.last = ""

    @property
    def whole(self) -> bool:
        return self.last.endswith("\n")

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        try:
            self.last = next(self._lines)
        except (EOFError, OSError) as exc:
            raise DatasetError(f"cannot read {self._source.name} to its end: {exc}", path=self._source.name) from exc
        return self.last
