"""Files to score: which are found, what their rows are, and how they are cut into parts."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_task import read_parts, write_table

from distill.bundle import Bundle
from distill.errors import DatasetError
from serve.bulk import inputs, parts
from serve.bulk.run import score
from serve.bulk.settings import ScoreSettings
from serve.bulk.threads import run_in_threads
from serve.bulk.work import Finished, Job

SMALL = ScoreSettings(key=("id",), part_rows=64, workers=2)


def test_csv_and_jsonl_give_the_answers_of_parquet(tmp_path: Path, tiny_student: Bundle) -> None:
    texts = write_table(tmp_path / "in.parquet", 150)
    rows = [{"id": number, "text": text, "stars": str(number % 5)} for number, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["id,text,stars", *(f'{row["id"]},"{row["text"]}",{row["stars"]}' for row in rows)]
    with fsspec.open(str(tmp_path / "in.csv.gz"), "wt", compression="gzip") as file:
        file.write("\n".join(lines) + "\n")
    tables = {}
    for name in ("in.parquet", "in.jsonl", "in.csv.gz"):
        score(tiny_student, [str(tmp_path / name)], str(tmp_path / f"out-{name}"), settings=SMALL)
        tables[name] = read_parts(tmp_path / f"out-{name}")
    assert tables["in.jsonl"].equals(tables["in.parquet"])
    assert tables["in.csv.gz"]["id"].to_pylist() == list(map(str, range(150)))  # CSV knows no numbers
    assert tables["in.csv.gz"].select(["label", "score"]).equals(tables["in.parquet"].select(["label", "score"]))


def test_without_a_key_a_row_is_known_by_its_file_and_line(tmp_path: Path, tiny_student: Bundle) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write_table(folder / "deep" / "b.parquet", 3)
    (folder / "a.csv").write_text("text\nlovely\ndull\n")
    (folder / "_ignored.csv").write_text("nothing")
    score(tiny_student, [str(folder)], str(tmp_path / "out"), settings=ScoreSettings())
    table = read_parts(tmp_path / "out")
    named = list(zip(table["source"].to_pylist(), table["line"].to_pylist(), strict=True))
    assert named == [("a.csv", 2), ("a.csv", 3), ("deep/b.parquet", 1), ("deep/b.parquet", 2), ("deep/b.parquet", 3)]


def test_a_value_of_another_kind_far_down_is_a_bad_row(tmp_path: Path, tiny_student: Bundle) -> None:
    rows = [{"id": number, "text": "lovely"} for number in range(inputs.CHUNK_ROWS)]
    rows += [{"id": "x", "text": "dull"}, {"id": 7, "text": "lovely"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = score(tiny_student, [str(tmp_path / "in.jsonl")], str(tmp_path / "out"), settings=ScoreSettings(key=("id",)))
    assert (summary["num_rows"], summary["num_bad"]) == (inputs.CHUNK_ROWS + 1, 1)
    assert read_parts(tmp_path / "out")["id"].to_pylist() == [*range(inputs.CHUNK_ROWS), 7]
    [bad] = pq.read_table(tmp_path / "out" / "_quarantine").to_pylist()
    assert (bad["line"], bad["begins"]) == (inputs.CHUNK_ROWS + 1, "dull")


def test_files_that_disagree_or_lack_a_column_are_refused_before_any_scoring(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "a.parquet", 10)
    pq.write_table(pa.table({"id": ["one"], "text": ["dull"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"id": [1], "text": [2]}), tmp_path / "c.parquet")
    cases = [
        (["a", "b"], SMALL, r"b\.parquet.*string.*a\.parquet.*int64"),
        (["a"], ScoreSettings(text_column="body"), r"a\.parquet.*'body'.*'id', 'text', 'stars'.*--text-column"),
        (["a"], ScoreSettings(key=("row",)), r"a\.parquet.*'row'.*--key"),
        (["c"], ScoreSettings(), r"c\.parquet.*'text'.*int64.*--text-column"),
        (["missing"], ScoreSettings(), r"missing\.parquet"),
    ]
    for names, settings, words in cases:
        with pytest.raises(DatasetError, match=words):
            score(tiny_student, [str(tmp_path / f"{name}.parquet") for name in names], str(tmp_path / "out"), settings=settings)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "csv.gz"])
def test_a_file_cut_in_the_middle_is_an_error_and_finished_parts_stay(tmp_path: Path, tiny_student: Bundle, kind: str) -> None:
    path, count = tmp_path / f"in.{kind}", 3 * inputs.CHUNK_ROWS
    if kind == "parquet":
        write_table(path, 200)
        content = path.read_bytes()
    elif kind == "jsonl":
        content = b'{"id": 1, "text": "a lovely film"}\n' * count
    else:
        content = b"id,text\n" + b'1,"a lovely film"\n' * count
    if kind == "csv.gz":
        content = gzip.compress(content)
    path.write_bytes(content[:-8])
    with pytest.raises(DatasetError, match=re.escape(path.name)):
        score(tiny_student, [str(path)], str(tmp_path / "out"), settings=ScoreSettings(part_rows=inputs.CHUNK_ROWS))
    if kind in ("csv", "jsonl"):
        manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
        assert (len(read_parts(tmp_path / "out")), len(manifest["parts"])) == (2 * inputs.CHUNK_ROWS, 2)


def test_long_texts_make_smaller_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 1000)
    monkeypatch.setattr(parts, "CHUNK_ROWS", 4)
    pq.write_table(pa.table({"text": ["x" * 200] * 12}), tmp_path / "in.parquet")
    [source] = inputs.find_inputs([str(tmp_path / "in.parquet")])
    settings = ScoreSettings()
    found = list(parts.raw_parts(source, 0, inputs.kept_schema([source], settings), settings))
    assert [len(part.rows.texts) for part in found] == [8, 4]  # 4 rows are 800 characters, 8 are 1,600


def test_no_part_has_more_rows_than_the_setting(tmp_path: Path) -> None:
    rows = [json.dumps({"text": "lovely"}) if number % 7 else "not json" for number in range(7000)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    pq.write_table(pa.table({"text": ["lovely"] * 7000}), tmp_path / "in.parquet")
    settings = ScoreSettings(part_rows=3000)  # more than one chunk of 2,048 rows, less than two
    for name in ("in.jsonl", "in.parquet"):
        [source] = inputs.find_inputs([str(tmp_path / name)])
        found = list(parts.raw_parts(source, 0, inputs.kept_schema([source], settings), settings))
        counts = [len(part.rows.texts) + len(part.rows.malformed) for part in found]
        assert counts == [2048, 2048, 2048, 856], name
        places = sorted([*found[0].rows.lines, *(row.line for row in found[0].rows.malformed)])
        assert places == list(range(1, 2049))


def test_a_folder_without_data_and_a_file_of_another_format_are_refused(tmp_path: Path, tiny_student: Bundle) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("mine")
    for named in (tmp_path / "in", tmp_path / "in" / "notes.txt"):
        with pytest.raises(DatasetError, match=r"\.parquet, \.csv"):
            score(tiny_student, [str(named)], str(tmp_path / "out"))


def test_a_pattern_takes_the_files_that_match_in_order(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "b.txt"):
        (tmp_path / name).write_text("text\nlovely\n")
    assert [Path(each.name).name for each in inputs.find_inputs([str(tmp_path / "*.csv")])] == ["a.csv", "b.csv"]


def test_a_parquet_file_that_changes_type_during_the_job_is_an_error(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "in.parquet", 100)

    def change_first(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        pq.write_table(pa.table({"id": ["x"], "text": ["dull"]}), tmp_path / "in.parquet")
        yield from run_in_threads(job, done)

    with pytest.raises(DatasetError, match=r"in\.parquet.*no longer"):
        score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SMALL, runner=change_first)


def test_other_delimiters_and_encodings_are_read_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:

    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress("id;text\n1;Café, really\n2;naïve\n".encode("cp1252")))
    settings = ScoreSettings(key=("id",))
    (source,) = inputs.find_inputs([str(path)])
    with caplog.at_level("INFO"):
        (part,) = parts.raw_parts(source, 0, inputs.kept_schema([source], settings), settings)
    assert part.rows.texts == ["Café, really", "naïve"]
    assert [any(fact in record.message for record in caplog.records) for fact in ("semicolons", "cp1252")] == [True, True]
