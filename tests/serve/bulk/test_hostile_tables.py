"""Tables that were made to fill the memory, to run without end, or to label other texts than those that were named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_task import digest_of, read_parts, write_table

from distill.bundle import Bundle
from distill.errors import DatasetError, SettingsError
from serve.bulk import streams
from serve.bulk.inputs import find_inputs, kept_schema
from serve.bulk.output import LISTED
from serve.bulk.parts import raw_parts
from serve.bulk.run import score
from serve.bulk.settings import ScoreSettings
from serve.bulk.threads import run_in_threads
from serve.bulk.work import Finished, Job

SETTINGS = ScoreSettings(key=("id",), part_rows=64, workers=2)
PEAK = """
import resource, sys
from serve.bulk.inputs import find_inputs, kept_schema
from serve.bulk.parts import raw_parts
from serve.bulk.settings import ScoreSettings
settings = ScoreSettings(key=("id",))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    (source,) = find_inputs(sys.argv[1:])
    for count, part in enumerate(raw_parts(source, 0, kept_schema([source], settings), settings)):
        if count == 3:
            break
except Exception as exc:
    print(exc)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def reading_of(path: Path) -> tuple[str, int]:
    """Read a file in another process; return the error, if any, and by how many megabytes its memory grew."""
    limited = f'ulimit -v {8 * 2**20}; exec "$0" "$@"'  # so that a bomb ends itself, not the machine
    done = subprocess.run(
        ["bash", "-c", limited, sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    *said, grown = done.stdout.splitlines()
    return " ".join(said), int(grown)


# Bombs


def test_a_line_of_a_gigabyte_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("wb") as file:
        file.write(b'{"id": 1, "text": "')
        for _ in range(1024):
            file.write(b"a" * 2**20)
        file.write(b'"}\n')
    said, grown = reading_of(path)
    assert "in.jsonl:1: a line of more than 1,048,576 characters" in said
    assert grown < 200


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.open), ("bz2", bz2.open), ("xz", lzma.open)])
def test_a_file_that_expands_beyond_reason_is_refused(
    ending: str, compress: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 2**20)
    path = tmp_path / f"in.jsonl.{ending}"
    row = json.dumps({"id": 1, "text": "lovely"}).encode() + b"\n"
    with compress(path, "wb") as file:  # type: ignore[attr-defined]
        for _ in range(6):
            file.write((row * (2**20 // len(row) + 1))[: 2**20 // len(row) * len(row)])
    assert path.stat().st_size * 200 < 6 * 2**20
    settings = SETTINGS.model_copy(update={"part_rows": 8192})
    (source,) = find_inputs([str(path)])
    schema = kept_schema([source], settings)
    with pytest.raises(DatasetError, match="becomes more than 200 times as large"):
        for _ in raw_parts(source, 0, schema, settings):
            pass


def test_an_xz_file_that_asks_for_gigabytes_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30}]
    row = b'{"id": 1, "text": "lovely"}\n'
    with lzma.open(tmp_path / "in.jsonl.xz", "wb", filters=filters) as file:
        file.write(row)
    with pytest.raises(DatasetError, match="Memory usage limit"):
        kept_schema(find_inputs([str(tmp_path / "in.jsonl.xz")]), SETTINGS)
    content = lzma.compress(row) + bytes(8) + lzma.compress(row)  # two streams and padding between them are one file
    (tmp_path / "two.jsonl.xz").write_bytes(content)
    (source,) = find_inputs([str(tmp_path / "two.jsonl.xz")])
    (part,) = raw_parts(source, 0, kept_schema([source], SETTINGS), SETTINGS)
    assert part.rows.texts == ["lovely", "lovely"]
    (tmp_path / "cut.jsonl.xz").write_bytes(content[:-20])
    with pytest.raises(DatasetError, match="cannot read the file to its end"):
        kept_schema(find_inputs([str(tmp_path / "cut.jsonl.xz")]), SETTINGS)


def write_shared(path: Path, text: str, rows: int, *, column: str = "text") -> None:
    """Write a Parquet file in which all rows share one value, once in a dictionary."""
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    other = "id" if column == "text" else "text"
    table = pa.table({column: shared, other: pa.array(["lovely"] * rows)})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30, store_schema=False)


@pytest.mark.parametrize("column", ["text", "id"])
def test_a_huge_value_that_many_rows_share_is_read_in_little_memory(column: str, tmp_path: Path) -> None:
    write_shared(tmp_path / "in.parquet", "x" * 20_000_000, 256, column=column)
    assert (tmp_path / "in.parquet").stat().st_size < 20_000  # of 5 gigabytes
    said, grown = reading_of(tmp_path / "in.parquet")
    assert said == "" if column == "text" else "column 'id' has a value of 20,000,000 characters" in said
    assert grown < 1_000


def test_a_dictionary_beyond_reason_is_refused(tmp_path: Path) -> None:
    write_shared(tmp_path / "in.parquet", "x" * 80_000_000, 10)
    said, grown = reading_of(tmp_path / "in.parquet")
    assert "a dictionary of 80,000,004 bytes" in said
    assert grown < 100


def test_the_size_of_a_dictionary_is_read_as_it_was_written(tmp_path: Path) -> None:
    for size in (1, 100, 10_000, 5_000_000):
        write_shared(tmp_path / "in.parquet", "x" * size, 10)
        chunk = pq.ParquetFile(tmp_path / "in.parquet").metadata.row_group(0).column(0)
        assert streams.dictionary_bytes(str(tmp_path / "in.parquet"), chunk.dictionary_page_offset) == size + 4


# Links


def test_links_in_a_folder_are_an_error_unless_they_are_wanted(tmp_path: Path) -> None:
    write_table(tmp_path / "secret.parquet", 3)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.parquet").symlink_to(tmp_path / "secret.parquet")
    for named in (str(folder), str(folder / "*.parquet")):
        with pytest.raises(DatasetError, match=r"a\.parquet is a link"):
            find_inputs([named])
        assert len(find_inputs([named], follow_links=True)) == 1
    assert len(find_inputs([str(folder / "a.parquet")])) == 1  # named by the user


def test_a_link_to_a_folder_is_an_error_even_in_a_circle(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", 3)
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(DatasetError, match="again is a link"):
        find_inputs([str(tmp_path)])


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    with pytest.raises(DatasetError, match="is no regular file"):
        find_inputs([str(tmp_path / "in.jsonl")])


# Changes


def test_a_change_in_the_middle_of_a_file_makes_another_job(tmp_path: Path, tiny_student: Bundle) -> None:
    path = tmp_path / "in.csv"
    filler = "".join(f"{number},{'lovely ' * 20}\n" for number in range(2_000))  # more than 64 KiB before and after
    path.write_text("id,text\n" + filler + "x,great\n" + filler)
    score(tiny_student, [str(path)], str(tmp_path / "out"), settings=SETTINGS)
    path.write_text("id,text\n" + filler + "x,awful\n" + filler)
    with pytest.raises(SettingsError, match="holds the parts of another job: its inputs"):
        score(tiny_student, [str(path)], str(tmp_path / "out"), settings=SETTINGS)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, tiny_student: Bundle) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n1,great\n")

    def changing(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        path.write_text("id,text\n1,awful\n")
        yield from run_in_threads(job, done)

    with pytest.raises(DatasetError, match=r"in\.csv changed while it was read"):
        score(tiny_student, [str(path)], str(tmp_path / "out"), settings=SETTINGS, runner=changing)


def test_a_missing_key_is_a_bad_row_unless_it_was_declared(tmp_path: Path, tiny_student: Bundle) -> None:
    rows = [{"id": 1, "text": "great"}, {"text": "awful"}, {"id": 3, "text": "dull"}, {"id": None, "text": "great"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(tiny_student, [str(tmp_path / "in.jsonl")], str(tmp_path / "out"), settings=SETTINGS)
    assert read_parts(tmp_path / "out")["id"].to_pylist() == [1, 3, None]
    [bad] = pq.read_table(tmp_path / "out" / "_quarantine").to_pylist()
    assert (bad["line"], bad["reason"], bad["begins"]) == (2, "it has no column 'id'", "awful")
    declared = ScoreSettings(**{**SETTINGS.model_dump(), "optional_columns": ("id",)})
    score(tiny_student, [str(tmp_path / "in.jsonl")], str(tmp_path / "declared"), settings=declared)
    assert read_parts(tmp_path / "declared")["id"].to_pylist() == [1, None, 3, None]
    with pytest.raises(SettingsError, match="optional_columns has 'stars', which is not copied"):
        ScoreSettings(optional_columns=("stars",))


# Growing


def test_an_incremental_run_labels_only_the_new_files(tmp_path: Path, tiny_student: Bundle) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_table(folder / "b.parquet", 100)
    growing = SETTINGS.model_copy(update={"incremental": True})
    assert score(tiny_student, [str(folder)], str(out), settings=growing)["rows_scored"] == 100
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    write_table(folder / "a.parquet", 70, seed=1)  # sorts before the other one

    with pytest.raises(SettingsError, match="another job: its inputs"):
        score(tiny_student, [str(folder)], str(out), settings=SETTINGS)
    summary = score(tiny_student, [str(folder)], str(out), settings=growing)
    assert (summary["rows_scored"], summary["num_rows"]) == (70, 170)
    assert {name: path.stat().st_mtime_ns for name in before for path in [out / name]} == before
    assert sorted(path.name for path in out.glob("part-*")) == [
        "part-00000-000000.parquet",
        "part-00000-000001.parquet",
        "part-00001-000000.parquet",
        "part-00001-000001.parquet",
    ]
    assert score(tiny_student, [str(folder)], str(out), settings=growing)["rows_scored"] == 0
    (folder / "b.parquet").unlink()  # its labels stay
    assert score(tiny_student, [str(folder)], str(out), settings=growing)["num_rows"] == 170
    write_table(folder / "a.parquet", 70, seed=2)
    with pytest.raises(DatasetError, match=r"a\.parquet changed since it was labelled"):
        score(tiny_student, [str(folder)], str(out), settings=growing)


def test_an_incremental_run_finishes_what_was_broken_first(tmp_path: Path, tiny_student: Bundle) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_table(folder / "a.parquet", 200)
    growing = SETTINGS.model_copy(update={"incremental": True})

    def broken(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        yield next(run_in_threads(job, done))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(tiny_student, [str(folder)], str(out), settings=growing, runner=broken)
    write_table(folder / "b.parquet", 70, seed=1)
    content = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").unlink()
    with pytest.raises(DatasetError, match=r"a\.parquet is gone, but an earlier run did not label it to the end"):
        score(tiny_student, [str(folder)], str(out), settings=growing)
    (folder / "a.parquet").write_bytes(content)
    assert score(tiny_student, [str(folder)], str(out), settings=growing)["num_rows"] == 270
    assert (out / "part-00000-000003.parquet").exists()
    assert (out / "part-00001-000001.parquet").exists()


def test_a_part_is_listed_as_soon_as_it_is_whole(tmp_path: Path, tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.bulk.output._MANIFEST_SHARE", 1e-9)  # the manifest is never rewritten in between
    write_table(tmp_path / "in.parquet", 300)
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    def ending(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        for count, finished in enumerate(run_in_threads(job, done)):
            yield finished
            if count == 2:
                monkeypatch.setattr("serve.bulk.output.Ledger.commit", lambda self, *, complete: None)  # as after kill -9
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(tiny_student, [str(tmp_path / "in.parquet")], str(killed), settings=SETTINGS, runner=ending)
    assert len(list((killed / LISTED).iterdir())) == 3
    monkeypatch.undo()
    summary = score(tiny_student, [str(tmp_path / "in.parquet")], str(killed), settings=SETTINGS)
    assert summary["rows_scored"] == 300 - 3 * 64
    score(tiny_student, [str(tmp_path / "in.parquet")], str(whole), settings=SETTINGS)
    assert digest_of(killed) == digest_of(whole)


def test_the_parts_of_another_program_are_not_taken_for_ours(tmp_path: Path, tiny_student: Bundle) -> None:
    write_table(tmp_path / "in.parquet", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000-6f1c2d-c000.snappy.parquet").write_bytes(b"Spark's")
    with pytest.raises(SettingsError, match="is not empty and holds no job: part-00000-6f1c2d"):
        score(tiny_student, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), settings=SETTINGS)
