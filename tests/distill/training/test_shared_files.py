"""Texts and token ids in mapped files, which read like lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.data.dataset import JoinedTexts
from distill.errors import StorageError
from distill.training.processes import MappedRows, MappedTexts, lengths_of, open_accelerator, shared_files

TEXTS = ["a film", "", "naïve 映画", "du\ud800ll", "end"]
ROWS = [[1, 2, 3], [], [70_000], [5, 6]]


def test_texts_are_read_as_they_were_written(tmp_path: Path) -> None:
    texts = MappedTexts.write(tmp_path / "texts", iter(TEXTS))
    assert len(texts) == 5
    assert list(texts) == TEXTS
    assert texts[-1] == "end"
    assert texts[1:4] == TEXTS[1:4]
    with pytest.raises(IndexError):
        texts[5]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = MappedRows.write(tmp_path / "rows", (np.array(row, dtype=np.int64) for row in ROWS))
    assert [row.tolist() for row in rows] == ROWS
    assert all(row.dtype == np.int64 for row in rows)
    assert [row.tolist() for row in rows[-2:]] == ROWS[-2:]
    assert lengths_of(rows).tolist() == [3, 0, 1, 2] == lengths_of(list(rows)).tolist()


@pytest.mark.parametrize("kind", [MappedTexts, MappedRows])
def test_no_pieces_are_an_empty_sequence(kind: type[MappedTexts | MappedRows], tmp_path: Path) -> None:
    assert list(kind.write(tmp_path / "none", [])) == []
    assert list(kind(tmp_path / "none")) == []


def test_another_process_maps_what_one_has_written(tmp_path: Path) -> None:
    MappedTexts.write(tmp_path / "texts", TEXTS)
    MappedRows.write(tmp_path / "rows", (np.array(row, dtype=np.int64) for row in ROWS))
    assert list(MappedTexts(tmp_path / "texts")) == TEXTS
    assert [row.tolist() for row in MappedRows(tmp_path / "rows")] == ROWS


def test_joined_texts_are_one_after_the_other() -> None:
    joined = JoinedTexts(("a", "b"), [], ["c"], ())
    assert list(joined) == ["a", "b", "c"]
    assert joined[-1] == "c"
    assert joined[1:] == ["b", "c"]
    with pytest.raises(IndexError):
        joined[3]


def test_the_shared_folder_starts_empty_and_is_removed(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "left").write_text("by a killed run")

    def interrupted() -> None:
        with open_accelerator("cpu") as accelerator, shared_files(tmp_path / "shared", accelerator) as files:
            assert list(files.folder.iterdir()) == []
            files.texts("texts", TEXTS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_storage_error_that_names_the_file(small_disk: Path) -> None:
    with pytest.raises(StorageError, match=str(small_disk / "texts")):
        MappedTexts.write(small_disk / "texts", ("x" * 1000 for _ in range(1000)))
