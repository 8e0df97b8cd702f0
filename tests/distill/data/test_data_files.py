"""What becomes of the rows of a file: which are read, which are refused, and with which line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.data.files import BadRows, Columns, Row, read_rows
from distill.errors import DatasetError

LABELLED = Columns("text", "label", max_text_chars=100_000)
TEXTS = Columns("text", None, max_text_chars=100_000)
FIVE_MB = 5_000_000


def rows_of(path: Path, columns: Columns = LABELLED) -> list[Row]:
    return list(read_rows(path, columns, BadRows(skip=False)))


def rows_and_complaints(path: Path) -> tuple[list[Row], list[DatasetError]]:
    """Read as --skip-bad-rows does."""
    complaints: list[DatasetError] = []
    return list(read_rows(path, LABELLED, complaints.append)), complaints


def refusal_of(path: Path, columns: Columns = LABELLED) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        rows_of(path, columns)
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Return a function that writes a file of a given name."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.parquet", "A.CSV"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    pairs = [("fine, really", "good"), ("dull", "bad")]
    path = tmp_path / name
    kind = path.suffix.lower()
    if kind == ".parquet":
        parquet(path, label=[label for _, label in pairs], text=[text for text, _ in pairs])
    elif kind in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps({"label": label, "id": 7, "text": text}) + "\n" for text, label in pairs))
    else:
        cut = "\t" if kind == ".tsv" else ","
        quote = "" if kind == ".tsv" else '"'
        path.write_text(f"label{cut}text\n" + "".join(f"{label}{cut}{quote}{text}{quote}\n" for text, label in pairs))
    first_line = 2 if kind in (".csv", ".tsv") else 1
    assert rows_of(path) == [Row("fine, really", "good", first_line), Row("dull", "bad", first_line + 1)]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_texts_alone_need_no_label_column(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        parquet(path, text=["one", "two"])
    else:
        path.write_text("text\none\ntwo\n" if name == "a.csv" else '{"text": "one"}\n{"text": "two"}\n')
    assert [(row.text, row.label) for row in rows_of(path, TEXTS)] == [("one", None), ("two", None)]


@pytest.mark.parametrize(
    ("columns", "missing", "flag"),
    [(("text", "mood"), "label", "--label-column"), (("utterance", "label"), "text", "--text-column")],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_missing_column_is_named_with_those_present_and_the_flag(
    tmp_path: Path, suffix: str, columns: tuple[str, str], missing: str, flag: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        parquet(path, **{columns[0]: ["a"], columns[1]: ["b"]})
    else:
        path.write_text(
            f"{columns[0]},{columns[1]}\na,b\n" if suffix == "csv" else json.dumps({columns[0]: "a", columns[1]: "b"})
        )
    message = str(refusal_of(path))
    assert all(fact in message for fact in (repr(missing), repr(columns[0]), repr(columns[1]), flag))


def test_all_missing_columns_are_named_at_once(file: Callable[[str, str], Path]) -> None:
    message = str(refusal_of(file("a.csv", "id;Customer comment;Verdict\n0;fine;good\n")))
    assert "no column 'text' and no column 'label'; its columns: 'id', 'Customer comment', 'Verdict'" in message
    assert message.endswith("--text-column and --label-column")


def test_two_columns_of_one_name_are_refused(file: Callable[[str, str], Path]) -> None:
    assert "2 columns named 'text'" in str(refusal_of(file("a.csv", "text,label,text\na,b,c\n")))


@pytest.mark.parametrize("text", ["", "   ", "\u00a0\t"])
def test_an_empty_text_is_refused_with_its_line(file: Callable[[str, str], Path], text: str) -> None:
    error = refusal_of(file("a.csv", f'text,label\nfine,good\n"{text}",bad\n'))
    assert error.line == 3
    assert all(fact in str(error) for fact in ("a.csv:3", "empty", "--skip-bad-rows"))


def test_a_row_that_is_not_utf8_is_named_and_its_neighbours_are_read(file: Callable[[str, bytes], Path]) -> None:
    path = file("a.csv", "text,label\nfine,good\ncafé,bad\nnaïve,good\n".encode().replace(b"caf\xc3\xa9", b"caf\xe9"))
    error = refusal_of(path)
    assert (error.line, error.path) == (3, path)
    assert "a.csv:3" in str(error)
    assert "UTF-8" in str(error)
    rows, complaints = rows_and_complaints(path)
    assert [row.text for row in rows] == ["fine", "naïve"]
    assert [complaint.line for complaint in complaints] == [3]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\nfine,tr\x8fs\n"),
        ("a.jsonl", b'{"text": "fine", "label": "tr\x8fs"}'),
        ("b.jsonl", b'{"text": "fine", "label": "\\ud800"}'),
    ],
)
def test_a_label_that_is_not_utf8_is_refused(file: Callable[[str, bytes], Path], name: str, content: bytes) -> None:
    error = refusal_of(file(name, content))
    assert "UTF-8" in str(error)
    str(error).encode()  # the message itself can be printed


def test_bytes_that_are_not_utf8_in_a_column_nobody_reads_do_no_harm(file: Callable[[str, bytes], Path]) -> None:
    assert rows_of(file("a.csv", b"author,text,label\nRen\xe9,fine,good\n")) == [Row("fine", "good", 2)]


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "text,label\nfine,good\n"), ("a.jsonl", '{"text": "fine", "label": "good"}')]
)
def test_a_byte_order_mark_is_no_part_of_the_first_column(file: Callable[[str, bytes], Path], name: str, content: str) -> None:
    assert [(row.text, row.label) for row in rows_of(file(name, b"\xef\xbb\xbf" + content.encode()))] == [("fine", "good")]


def test_a_quoted_line_end_stays_in_the_text_and_later_lines_keep_their_numbers(file: Callable[[str, str], Path]) -> None:
    path = file("a.csv", 'text,label\n"one\ntwo ""three""",good\n\nfour,bad\n,good\n')
    rows, complaints = rows_and_complaints(path)
    assert rows == [Row('one\ntwo "three"', "good", 2), Row("four", "bad", 5)]
    assert [complaint.line for complaint in complaints] == [6]


def test_only_line_feeds_end_a_line(file: Callable[[str, str], Path]) -> None:
    # str.splitlines would also cut at the next two, which real tweets hold.
    text = "one\u2028two\x85three\x00"
    assert rows_of(file("a.csv", f"text,label\r\n{text},good\r\n")) == [Row(text, "good", 2)]
    assert rows_of(file("a.jsonl", '{"text": "one\u2028two", "label": "good"}\r\n')) == [Row("one\u2028two", "good", 1)]


def test_an_open_quote_is_refused_at_the_line_where_it_opens(file: Callable[[str, str], Path]) -> None:
    path = file("a.csv", 'text,label\nfine,good\n"never closed,bad\nmore,good\nmore,bad\n')
    error = refusal_of(path)
    assert error.line == 3
    assert "quote" in str(error)
    with pytest.raises(DatasetError, match="quote"):  # skipping it would silently skip the rest of the file
        rows_and_complaints(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_text_of_5_mb_is_one_bad_row_and_not_the_end(tmp_path: Path, name: str) -> None:
    texts, path = ["fine", "x" * FIVE_MB, "dull"], tmp_path / name
    if name == "a.parquet":
        parquet(path, text=texts, label=["good", "bad", "bad"])
    elif name == "a.csv":
        path.write_text(f'text,label\nfine,good\n"{texts[1]}",bad\ndull,bad\n')
    else:
        path.write_text("\n".join(json.dumps({"text": text, "label": "bad"}) for text in texts))
    message = str(refusal_of(path))
    assert all(fact in message for fact in ("5,000,000", "--max-text-chars", "100,000"))
    assert len(message) < 300 + len(str(tmp_path))  # the text itself is not in it
    rows, complaints = rows_and_complaints(path)
    assert [row.text for row in rows] == ["fine", "dull"]
    assert len(complaints) == 1


def test_a_text_of_5_mb_is_read_when_the_limit_allows_it(file: Callable[[str, str], Path]) -> None:
    path = file("a.csv", f'text,label\n"{"x" * FIVE_MB}",bad\n')
    assert len(rows_of(path, Columns("text", "label", max_text_chars=FIVE_MB))[0].text) == FIVE_MB
    assert "5,000,000" in str(refusal_of(path, Columns("text", "label", max_text_chars=FIVE_MB - 1)))


def test_a_row_with_too_many_or_too_few_fields_is_refused(file: Callable[[str, str], Path]) -> None:
    path = file("a.csv", "text,label\nfine,good\nwell, yes,good\nalone\n")
    message = str(refusal_of(path))
    assert all(fact in message for fact in ("a.csv:3", "3 fields", "2"))
    rows, complaints = rows_and_complaints(path)
    assert [row.text for row in rows] == ["fine"]
    assert [complaint.line for complaint in complaints] == [3, 4]


def test_a_header_alone_gives_no_rows_and_no_header_is_refused(file: Callable[[str, str], Path]) -> None:
    assert rows_of(file("a.csv", "text,label\n")) == []
    assert "empty" in str(refusal_of(file("b.csv", "")))


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.99])
def test_a_truncated_parquet_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = parquet(tmp_path / "a.parquet", text=[f"text {number}" for number in range(1000)], label=["good", "bad"] * 500)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert "Parquet" in str(refusal_of(path))


def test_a_csv_named_parquet_is_refused(file: Callable[[str, str], Path]) -> None:
    assert "Parquet" in str(refusal_of(file("a.parquet", "text,label\nfine,good\n")))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_parquet_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path, kind: pa.DataType) -> None:
    # pyarrow checks the bytes only when it makes Python strings of them.
    texts = pa.array(
        [b"fine", b"caf\xe9", None, "naïve".encode(), b""], pa.large_binary() if kind == pa.large_string() else pa.binary()
    )
    broken = pa.Array.from_buffers(kind, len(texts), texts.buffers())
    rows, complaints = rows_and_complaints(parquet(tmp_path / "a.parquet", text=broken, label=["a", "b", "a", "b", "a"]))
    assert [(row.text, row.line) for row in rows] == [("fine", 1), ("naïve", 4)]
    assert ["UTF-8" in str(complaint) for complaint in complaints] == [True, False, False]
    assert "NoneType" in str(complaints[1])
    assert "empty" in str(complaints[2])


def test_parquet_categories_are_read_as_their_names(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", text=["x", "y"], label=pa.array(["good", "bad"]).dictionary_encode())
    assert [row.label for row in rows_of(path)] == ["good", "bad"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "cut', "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"text": "fine", "label": ' + "1" * 5000 + "}", "JSON"),
        ('["fine", "good"]', "list"),
        ('"fine"', "str"),
        ('{"text": "fine"}', "no column 'label'"),
        ('{"text": 7, "label": "good"}', "int"),
        ('{"text": null, "label": "good"}', "NoneType"),
    ],
)
def test_a_json_line_that_is_no_row_is_refused_and_can_be_left_out(
    file: Callable[[str, str], Path], line: str, problem: str
) -> None:
    path = file("a.jsonl", '{"text": "first", "label": "good"}\n\n' + line + '\n{"text": "last", "label": "bad"}\n')
    error = refusal_of(path)
    assert error.line == 3
    assert problem in str(error)
    rows, complaints = rows_and_complaints(path)
    assert [(row.text, row.line) for row in rows] == [("first", 1), ("last", 4)]
    assert len(complaints) == 1


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1", "1"),
        ("1.0", "1"),
        ("-2", "-2"),
        ("0", "0"),
        ("true", "true"),
        ("false", "false"),
        ('" good "', "good"),
        ('"1.0"', "1.0"),
    ],
)
def test_labels_are_read_as_names(file: Callable[[str, str], Path], written: str, read: str) -> None:
    assert rows_of(file("a.jsonl", f'{{"text": "fine", "label": {written}}}'))[0].label == read


@pytest.mark.parametrize("written", ["1.5", "null", "NaN", "Infinity", '""', '"  "', "[null]", "[[1]]", '{"a": 1}'])
def test_what_is_no_label_is_refused(file: Callable[[str, str], Path], written: str) -> None:
    error = refusal_of(file("a.jsonl", f'{{"text": "fine", "label": {written}}}'))
    assert error.line == 1
    assert "the label is" in str(error)


@pytest.mark.parametrize(
    "values", [pa.array([0, 1], pa.int64()), pa.array([0, 1], pa.uint8()), pa.array([0.0, 1.0], pa.float32())]
)
def test_numeric_parquet_labels_are_whole_numbers(tmp_path: Path, values: pa.Array) -> None:
    assert [row.label for row in rows_of(parquet(tmp_path / "a.parquet", text=["x", "y"], label=values))] == ["0", "1"]


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert "is not a file" in str(refusal_of(tmp_path / "folder.csv"))
    assert "is not a file" in str(refusal_of(tmp_path / "absent.csv"))
    assert "cannot read" in str(refusal_of(tmp_path / f"{'long' * 100}.csv"))


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.csv.gz"])
def test_a_file_of_unknown_kind_is_refused_with_the_known_ones(file: Callable[[str, str], Path], name: str) -> None:
    message = str(refusal_of(file(name, "text,label\nfine,good\n")))
    assert all(suffix in message for suffix in (name, ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"))
