"""What a text file is: its encoding, its delimiter, whether its fields are quoted, and which columns it means.

Everything is decided from the first megabyte and the header, so a file of any size is read as a stream, and the same file is
always read the same way.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from distill.errors import DatasetError

HEAD_BYTES = 2**20
"""Bytes at the beginning of a file from which its form is decided."""

MAX_LINE_CHARS = 64 * 2**20
"""Longest line; a file without line ends is refused instead of read into memory."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

TEXT_NAMES = ("text", "sentence", "review", "content", "comment", "question", "body", "message", "document", "tweet")
LABEL_NAMES = ("label", "labels", "target", "sentiment", "class", "category", "intent", "topic")

_HEAD_ROWS = 200
_MAX_NUL_SHARE = 0.1
# What text in cp1252 does not contain: control characters, and the five bytes that the encoding leaves undefined.
_NOT_CP1252 = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\x81\x8d\x8f\x90\x9d]")


@dataclass(frozen=True)
class TextForm:
    """How the lines of a text file are read.

    Attributes:
        encoding: By Python's name.
        delimiter: Separator of fields; not used for JSONL.
        quoted: Whether a quotation mark at the start of a field opens a quoted field, as in CSV; if not, it is a character.
    """

    encoding: str = "utf-8"
    delimiter: str = ","
    quoted: bool = True

    def notes(self, source: Path | str, kind: str) -> list[str]:
        """Return a sentence for each property that differs from what the file's name promises."""
        found = []
        if self.encoding == "cp1252":
            found.append(f"{source}: not UTF-8, read as cp1252 (Windows); save it as UTF-8 if letters look wrong")
        elif self.encoding == "utf-16":
            found.append(f"{source}: read as UTF-16")
        if kind in ("csv", "tsv") and self.delimiter != _usual_delimiter(kind):
            found.append(f"{source}: fields are separated by {DELIMITERS[self.delimiter]}")
        return found


@dataclass(frozen=True)
class OpenedText:
    """A file with its form; `lines` yields each line once, with its end."""

    form: TextForm
    lines: Iterator[str]


def open_text(
    source: Path | str, file: IO[bytes], *, kind: str, wanted: Sequence[str] = (), max_line_chars: int | None = None
) -> OpenedText:
    """Decide the form of a file and return its lines, decoded as they are read.

    A byte that is not valid in the encoding becomes a lone surrogate, so that the error can name its row.

    Args:
        source: The file, for messages.
        file: Opened for reading; it need not be seekable.
        kind: "csv", "tsv" or "jsonl".
        wanted: Names of columns that the header is expected to have, in any case; they help to choose the delimiter.
        max_line_chars: Longest line; None is `MAX_LINE_CHARS`.

    Raises:
        DatasetError: The content is not text.
    """
    head = _read_up_to(file, HEAD_BYTES)
    encoding = _encoding_of(source, head)
    form = TextForm(encoding)
    if kind in ("csv", "tsv"):
        complete = len(head) < HEAD_BYTES
        text = codecs.getincrementaldecoder(encoding)("surrogateescape").decode(head, final=complete and encoding != "utf-16")
        form = _tabular_form(encoding, text, usual=_usual_delimiter(kind), wanted=wanted, complete=complete)
    return OpenedText(form, _lines(source, _Rest(head, file), encoding, max_line_chars or MAX_LINE_CHARS))


def _usual_delimiter(kind: str) -> str:
    return "\t" if kind == "tsv" else ","


def _read_up_to(file: IO[bytes], count: int) -> bytes:
    parts, missing = [], count
    while missing and (part := file.read(missing)):  # a compressed or remote file may return less than asked for
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _encoding_of(source: Path | str, head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head.count(0) > len(head) * _MAX_NUL_SHARE:  # a single one is a character of its row
        raise DatasetError(
            f"{source} has many NUL bytes, so it is not a text file, or UTF-16 without a byte order mark; save it as UTF-8",
            path=source,
        )
    text = head.decode("utf-8", errors="surrogateescape")
    if len(head) == HEAD_BYTES:
        text = text[:-4]  # the last character may be cut
    damaged = sum("\udc80" <= character <= "\udcff" for character in text) if not text.isascii() else 0
    whole = sum("\x7f" < character < "\ud800" or character > "\udfff" for character in text) if damaged else 0
    # Bytes of another encoding rarely form valid UTF-8 by chance: a file that has some is UTF-8 with damaged rows.
    if damaged and not whole and not _NOT_CP1252.search(head):
        return "cp1252"
    return "utf-8-sig"  # also without a byte order mark


class _Rest(io.RawIOBase):
    """The beginning that was already read, then the rest of the file."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head, self._file = memoryview(head), file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(cast("bytearray", buffer))
        part: bytes | memoryview = self._head[: len(target)] if len(self._head) else self._file.read(len(target))
        self._head = self._head[len(part) :]
        target[: len(part)] = part
        return len(part)


def _lines(source: Path | str, rest: io.RawIOBase, encoding: str, max_chars: int) -> Iterator[str]:
    buffered = cast("IO[bytes]", io.BufferedReader(rest, 2**16))
    # "\n": other characters that split lines in Unicode, and a lone carriage return, are part of a text.
    text = io.TextIOWrapper(buffered, encoding=encoding, errors="surrogateescape", newline="\n")
    number = 0
    try:
        while line := text.readline(max_chars):
            number += 1
            if len(line) == max_chars and not line.endswith("\n"):
                raise DatasetError(
                    f"{source}:{number}: a line of more than {max_chars:,} characters; expected one row a line",
                    path=source,
                    line=number,
                )
            yield line
    except UnicodeDecodeError as exc:  # UTF-16 that ends in the middle of a character
        raise DatasetError(
            f"{source}:{number + 1}: not valid {encoding} ({exc.reason}); save it as UTF-8", path=source, line=number + 1
        ) from exc


def _tabular_form(encoding: str, head: str, *, usual: str, wanted: Sequence[str], complete: bool) -> TextForm:
    lines = head.split("\n")
    if not complete:
        lines = lines[:-1] or lines  # the last line may be cut
    forms = [TextForm(encoding, each, each != "\t" or _is_quoted(lines, each)) for each in (usual, *DELIMITERS)]
    best = max(forms, key=lambda form: _fit(lines, form, wanted=wanted))  # the first of equals: the usual one
    return best if _fit(lines, best, wanted=wanted)[1] else forms[0]


def _fit(lines: Sequence[str], form: TextForm, *, wanted: Sequence[str]) -> tuple[int, bool, float]:
    """Return how well a delimiter fits: wanted columns in the header, whether it has several, share of rows as long as it."""
    rows = _first_rows(lines, form)
    if not rows:
        return 0, False, 0.0
    header = {name.strip().casefold() for name in rows[0]}
    share = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
    return len(header & {name.casefold() for name in wanted}), len(rows[0]) > 1, share


def _first_rows(lines: Sequence[str], form: TextForm) -> list[list[str]]:
    """Return the first rows; reading stops at a row that is not well-formed."""
    rows: list[list[str]] = []
    try:
        for row in csv_rows((f"{line}\n" for line in lines), form):
            if row:
                rows.append(row)
            if len(rows) > _HEAD_ROWS:
                break
    except csv.Error:
        pass  # the reader of the rows reports it with its line
    return rows


def csv_rows(lines: Iterable[str], form: TextForm) -> Any:
    """Return a `csv.reader` of lines of this form; it refuses what is not well-formed."""
    return csv.reader(
        lines, delimiter=form.delimiter, quoting=csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE, strict=True
    )


def _is_quoted(lines: Sequence[str], delimiter: str) -> bool:
    """Return whether the fields of tab-separated lines are quoted; without a sign of it, a quotation mark is a character.

    They are quoted if each field with a quotation mark is a well-formed quoted field, and these fields had to be quoted
    (they contain a doubled quotation mark, a delimiter or a line end), or their whole column is.
    """
    lines = [line.removesuffix("\r") for line in lines if line.strip()]
    if not any('"' in line for line in lines):
        return False
    header_length = len(lines[0].split(delimiter))
    records = [line.split(delimiter) for line in lines]
    if all(len(record) == header_length for record in records):
        marked = [(column, field) for record in records for column, field in enumerate(record) if '"' in field]
        if not all(_is_quoted_field(field) for _, field in marked):
            return False
        whole = {column for column in range(header_length) if all(_is_quoted_field(record[column]) for record in records[1:])}
        return all('""' in field[1:-1] or column in whole for column, field in marked) or all(
            _is_quoted_field(field) for field in records[0]
        )
    # A quoted field may contain delimiters and line ends: then only reading it as quoted gives rows of one length.
    try:
        lengths = {len(row) for row in csv_rows((f"{line}\n" for line in lines), TextForm(delimiter=delimiter)) if row}
    except csv.Error:
        return False
    return len(lengths) == 1


def _is_quoted_field(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"' and '"' not in field[1:-1].replace('""', "")


def usual_column(
    source: Path | str, present: Sequence[str], name: str, *, role: Literal["text", "label"], taken: str | None = None
) -> str:
    """Return the column to read: `name`, or, if that is the default and missing, the only one with a usual name.

    Args:
        source: The file, for messages.
        present: Its columns.
        name: The column that the settings name.
        role: What the column holds.
        taken: A column with another role.

    Raises:
        DatasetError: Several columns have usual names.
    """
    if name in present or name != role:
        return name
    usual = TEXT_NAMES if role == "text" else LABEL_NAMES
    known = [each for each in present if each != taken and each.strip().casefold() in usual]
    same = [each for each in known if each.strip().casefold() == role]
    found = same or known
    if len(found) > 1:
        raise DatasetError(
            f"{source} has no column {name!r}, and {' and '.join(map(repr, found))} could each be the {role}; choose one with "
            f"--{role}-column",
            path=source,
        )
    return found[0] if found else name
