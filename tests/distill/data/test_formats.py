"""What is detected in a file: encoding, delimiter, quoting and columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from distill.data import formats
from distill.data.files import BadRows, Columns, Row, read_rows
from distill.data.sources import load_splits, read_labelled
from distill.errors import DatasetError
from distill.settings import DataSettings

LABELLED = Columns("text", "label", max_text_chars=100_000)
PAIRS = [("Fine, really; a café|bar", "good"), ('He said "no"', "bad"), ("naïve", "good")]


def read(path: Path, columns: Columns = LABELLED) -> tuple[list[tuple[str, object]], list[str]]:
    notes: list[str] = []
    rows = list(read_rows(path, columns, BadRows(skip=False), say=notes.append))
    return [(row.text, row.label) for row in rows], notes


def written(
    path: Path,
    *,
    delimiter: str = ",",
    encoding: str = "utf-8",
    header: Sequence[str] = ("text", "label"),
    quoting: int = csv.QUOTE_MINIMAL,
) -> Path:
    table = io.StringIO()
    writer = csv.writer(table, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([header, *PAIRS])
    path.write_bytes(table.getvalue().encode(encoding))
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_the_delimiter_is_found_and_reported_where_the_name_promises_another(
    tmp_path: Path, suffix: str, delimiter: str, quoting: int
) -> None:
    path = written(tmp_path / f"a.{suffix}", delimiter=delimiter, quoting=quoting)
    rows, notes = read(path)
    assert rows == PAIRS
    usual = "\t" if suffix == "tsv" else ","
    assert [formats.DELIMITERS[delimiter] in note for note in notes] == ([] if delimiter == usual else [True])


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", "UTF-16"), ("cp1252", "cp1252")],
)
def test_the_encoding_is_found_and_reported(tmp_path: Path, encoding: str, named: str | None) -> None:
    rows, notes = read(written(tmp_path / "a.csv", encoding=encoding))
    assert rows == PAIRS
    assert [str(named) in note for note in notes] == ([True] if named else [])


@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be"])
def test_both_byte_orders_of_utf16_are_read(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("\ufefftext\tlabel\nCafé\tgood\n".encode(mark))
    assert read(path)[0] == [("Café", "good")]


def test_jsonl_in_utf16_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Café", "label": "good"}\n', encoding="utf-16")
    assert read(path)[0] == [("Café", "good")]


@pytest.mark.parametrize(
    "content",
    [b"text,label\n" + b"\0" * 10, "text,label\nfine,good\n".encode("utf-16-le"), b"\x89PNG\r\n\x1a\n\0\0"],
    ids=["NUL", "UTF-16 without a mark", "picture"],
)
def test_what_is_not_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="NUL") as caught:
        read(path)
    assert caught.value.path == path


def test_utf16_that_ends_inside_a_character_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\nfine,good\ndull,bad".encode("utf-16")[:-1])
    with pytest.raises(DatasetError) as caught:
        read(path)
    assert caught.value.line == 3


def test_bytes_that_neither_encoding_has_are_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nfine,good\ncaf\x81,bad\n")
    with pytest.raises(DatasetError, match="UTF-8") as caught:
        read(path)
    assert caught.value.line == 3


@pytest.mark.parametrize("marked", ['"Great', 'said "hi', 'ends"', '"all quoted"', '"'])
def test_in_an_unquoted_tsv_a_quotation_mark_is_a_character_and_no_row_is_lost(tmp_path: Path, marked: str) -> None:
    texts = [f"{marked} {number}" if number % 40 == 3 else f"text {number}" for number in range(120)]
    texts[3], texts[90] = '"Great', 'film"'  # read as a quoted field, these would merge all rows between them
    texts[5] = marked
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\tgood\n" for text in texts))
    assert [text for text, _ in read(path)[0]] == texts


def test_a_text_in_quotation_marks_keeps_them_where_other_rows_have_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"a quoted title"\tgood\ndull\tbad\n')
    assert [text for text, _ in read(path)[0]] == ['"a quoted title"', "dull"]


def test_a_quoted_tsv_may_have_tabs_and_line_ends_in_its_fields(tmp_path: Path) -> None:
    texts = ["two\nlines", "a\ttab", 'a "mark"', "plain"]
    path = tmp_path / "a.tsv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("text", "label"), *((text, "good") for text in texts)])
    assert [text for text, _ in read(path)[0]] == texts


def test_one_column_of_texts_is_not_cut_at_another_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\none | two; three\nfour\n")
    assert [text for text, _ in read(path, Columns("text", None, 100))[0]] == ["one | two; three", "four"]


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        (("Sentence", "TARGET"), "Sentence", "TARGET"),
        (("review", "sentiment"), "review", "sentiment"),
        (("content", "class"), "content", "class"),
        (("Text", "Label"), "Text", "Label"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_columns_are_found_by_their_usual_names_and_reported(
    tmp_path: Path, header: tuple[str, str], text: str, label: str, delimiter: str
) -> None:
    rows, notes = read(written(tmp_path / "a.csv", header=header, delimiter=delimiter))
    assert rows == PAIRS
    assert repr(text) in notes[-1]
    assert repr(label) in notes[-1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_kind_of_file_finds_its_columns(tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"review": ["fine"], "class": ["good"]}), path)
    else:
        path.write_text("review,class\nfine,good\n" if suffix == "csv" else '{"review": "fine", "class": "good"}\n')
    assert read(path)[0] == [("fine", "good")]


def test_two_usual_names_are_an_error_that_lists_them_and_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("review,comment,class,topic\na,b,c,d\n")
    with pytest.raises(DatasetError) as caught:
        read(path)
    assert all(fact in str(caught.value) for fact in ("'review'", "'comment'", "--text-column"))
    with pytest.raises(DatasetError) as caught:
        read(path, Columns("review", "label", 100))
    assert all(fact in str(caught.value) for fact in ("'class'", "'topic'", "--label-column"))


def test_a_named_column_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("review,label\na,b\n")
    with pytest.raises(DatasetError, match="'remark'"):
        read(path, Columns("remark", "label", 100))


def test_what_was_detected_is_a_note_of_the_data(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", delimiter=";", encoding="cp1252", header=("review", "sentiment"))
    notes = read_labelled(str(path), "train", DataSettings()).notes
    assert [any(fact in note for note in notes) for fact in ("semicolons", "cp1252", "'review'", "'sentiment'")] == [True] * 4


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_LINE_CHARS", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine", "label": "good"}\n{"text": "' + "a" * 2000)
    with pytest.raises(DatasetError, match="1,000") as caught:
        read(path)
    assert caught.value.line == 2


def test_the_form_is_decided_without_reading_the_rest(tmp_path: Path) -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            self.taken += len(content)
            return content

    file = Counting(b"text;label\n" + b"fine;good\n" * 500_000)
    opened = formats.open_text("a.csv", file, kind="csv", wanted=("text", "label"))
    assert opened.form.delimiter == ";"
    assert next(opened.lines) == "text;label\n"
    assert file.taken < formats.HEAD_BYTES + 2**17
    assert sum(1 for _ in opened.lines) == 500_000


@pytest.mark.parametrize("content", ["", "text,label\n"])
def test_no_rows_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(DatasetError) as caught:
        load_splits(DataSettings(train=(str(path),)))
    assert str(path) in str(caught.value)


def test_a_validation_label_that_train_lacks_is_named_with_its_line(tmp_path: Path) -> None:
    train, validation = tmp_path / "train.csv", tmp_path / "validation.csv"
    train.write_text("text,label\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(40)))
    validation.write_text("text,label\none,a\ntwo,c\n")
    with pytest.raises(DatasetError) as caught:
        load_splits(DataSettings(train=(str(train),), validation=str(validation)))
    assert (str(caught.value.path), caught.value.line) == (str(validation), 3)
    assert "'c'" in str(caught.value)


def test_forty_texts_are_split_with_both_labels_on_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(40)))
    splits = load_splits(DataSettings(train=(str(path),)))
    assert (len(splits.train), len(splits.validation)) == (36, 4)
    assert min(splits.validation.counts.values()) == 2


def test_a_flipped_byte_in_a_parquet_file_gives_rows_or_one_clear_error(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(100)], "label": ["a"] * 100}), path)
    content = path.read_bytes()
    refusals = []
    for place in (*range(64), *range(len(content) - 64, len(content))):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            read(path)
        except DatasetError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(str(path) in refusal for refusal in refusals)


def test_rows_keep_the_line_on_which_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text;label\n"two\nlines";good\nfine;bad\n')
    rows = list(read_rows(path, LABELLED, BadRows(skip=False), say=lambda _: None))
    assert rows == [Row("two\nlines", "good", 2), Row("fine", "bad", 4)]
