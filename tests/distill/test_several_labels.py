"""Data in which a text may have several labels: reading, numbering, cleaning, cutting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data import Dataset, limited, load_splits, read_labelled
from distill.data.dataset import merge_duplicates, require_usable, split_off
from distill.errors import DatasetError
from distill.settings import DataSettings

Write = Callable[[str, str], str]

ROWS: tuple[tuple[str, list[str]], ...] = (("one", ["b", "a"]), ("two", ["c"]), ("three", []), ("four", ["a"]))
TARGETS = [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file and returns its name."""

    def to(name: str, content: str) -> str:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return str(tmp_path / name)

    return to


def several(*rows: str, labels: str = "ab") -> Dataset:
    """Return a set whose texts are numbers; a row is its zeros and ones."""
    matrix = np.array([[int(digit) for digit in row] for row in rows], dtype=np.int64)
    return Dataset(tuple(f"text {number}" for number in range(len(rows))), matrix, tuple(labels), "here")


# Reading


def test_labels_in_one_column_are_taken_apart_at_the_separator(write: Write) -> None:
    lines = "".join(f"{text},{' | '.join(labels)}\n" for text, labels in ROWS)
    found = read_labelled(write("a.csv", f"text,label\n{lines}"), "train", DataSettings(label_separator="|"))
    assert found.labels == ("a", "b", "c")
    assert found.label_ids.tolist() == TARGETS
    assert found.problem_type == "multi_label_classification"
    assert found.counts == {"a": 2, "b": 1, "c": 1}
    assert [found.label_names(index) for index in range(4)] == [("a", "b"), ("c",), (), ("a",)]


def test_lists_of_labels_need_no_separator(write: Write, tmp_path: Path) -> None:
    jsonl = write("a.jsonl", "".join(json.dumps({"text": text, "label": labels}) + "\n" for text, labels in ROWS))
    texts, labels = zip(*ROWS, strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "a.parquet")
    for source in (jsonl, str(tmp_path / "a.parquet")):
        found = read_labelled(source, "train", DataSettings())
        assert (found.labels, found.label_ids.tolist()) == (("a", "b", "c"), TARGETS)


def test_without_a_separator_the_column_is_one_label(write: Write) -> None:
    found = read_labelled(write("a.csv", "text,label\none,a|b\ntwo,a\n"), "train", DataSettings())
    assert (found.labels, found.problem_type) == (("a", "a|b"), "single_label_classification")


def test_names_fix_the_columns_and_an_unknown_one_is_refused_with_its_line(write: Write) -> None:
    source = write("a.csv", "text,label\none,b|a|b\ntwo,a|d\n")
    settings = DataSettings(label_separator="|")
    found = read_labelled(source, "train", settings, labels=("d", "b", "a"))
    assert found.label_ids.tolist() == [[0, 1, 1], [1, 0, 1]]
    with pytest.raises(DatasetError, match=r"a\.csv:3: label 'd' is not one of 'a', 'b'"):
        read_labelled(source, "train", settings, labels=("a", "b"))


def test_lists_beside_single_labels_are_refused_with_the_line(write: Write) -> None:
    source = write("a.jsonl", '{"text": "one", "label": ["a"]}\n{"text": "two", "label": "b"}\n')
    with pytest.raises(DatasetError, match=r"a\.jsonl:2: .*list"):
        read_labelled(source, "train", DataSettings())


def test_sets_of_both_kinds_are_not_joined(write: Write) -> None:
    one, many = write("one.jsonl", '{"text": "one", "label": "a"}'), write("many.jsonl", '{"text": "two", "label": ["a"]}')
    with pytest.raises(DatasetError, match=r"many\.jsonl has several labels .*one\.jsonl"):
        load_splits(DataSettings(train=(one, many)))


def test_a_list_without_any_label_throughout_is_refused(write: Write) -> None:
    source = write("a.jsonl", '{"text": "one", "label": []}\n{"text": "two", "label": []}\n')
    with pytest.raises(DatasetError, match="no text has a label"):
        load_splits(DataSettings(train=(source,)))


def test_files_are_joined_and_cut_into_parts_that_share_the_columns(write: Write) -> None:
    def lines(start: int, *labels: list[str]) -> str:
        return "".join(json.dumps({"text": f"text {start + n}", "label": labels[n % len(labels)]}) + "\n" for n in range(40))

    paths = write("a.jsonl", lines(0, ["b"], ["b", "c"])), write("b.jsonl", lines(40, ["a", "b"], []))
    splits = load_splits(DataSettings(train=paths, validation_share=0.25))
    assert splits.train.labels == splits.validation.labels == ("a", "b", "c")
    assert splits.validation.counts == {"a": 5, "b": 15, "c": 5}
    assert splits.train.counts == {"a": 15, "b": 45, "c": 15}


# Cleaning


def test_the_same_labels_in_another_order_do_not_contradict() -> None:
    data = Dataset(("one", "One", "two", "TWO"), np.array([[1, 1], [1, 1], [1, 0], [1, 1]]), ("a", "b"), "here")
    clean = merge_duplicates(data)
    assert clean.texts == ("one",)
    assert clean.label_ids.tolist() == [[1, 1]]
    assert [note.startswith(start) for note, start in zip(clean.notes, ("here: merged 1", "here: dropped 2"), strict=True)] == [
        True
    ] * 2


def test_a_label_seen_once_is_refused() -> None:
    with pytest.raises(DatasetError, match="'b'"):
        require_usable(several("10", "10", "11"))


def test_the_fingerprint_moves_with_every_label() -> None:
    data = several("10", "11", "00")
    assert data.fingerprint() == several("10", "11", "00").fingerprint()
    assert data.fingerprint() == several("01", "11", "00", labels="ba").fingerprint()
    assert len({several(*rows).fingerprint() for rows in (("10", "11"), ("11", "10"), ("10", "01"), ("10", "00"))}) == 4


def test_columns_and_names_of_different_number_are_refused() -> None:
    with pytest.raises(DatasetError, match="here: 2 columns of labels and 3 label names"):
        several("10", labels="abc")


# Cuts


def test_every_label_keeps_its_share_alone_and_in_company() -> None:
    data = several(*["110"] * 100, *["100"] * 60, *["001"] * 20, *["000"] * 20, labels="abc")
    rest, cut = split_off(data, count=40, seed=0, name="validation")
    assert cut.counts == {"a": 32, "b": 20, "c": 4}
    assert rest.counts == {"a": 128, "b": 80, "c": 16}
    assert sum(not row.any() for row in cut.label_ids) == 4


def test_a_label_seen_twice_stands_on_both_sides() -> None:
    data = several(*["10"] * 60, "01", "11")
    rest, cut = split_off(data, count=5, seed=0, name="validation")
    assert (rest.counts["b"], cut.counts["b"]) == (1, 1)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=60), st.data(), st.integers(0, 5))
def test_a_sample_has_the_size_asked_for_and_no_row_twice(rows: list[list[bool]], data: st.DataObject, seed: int) -> None:
    whole = Dataset(tuple(map(str, range(len(rows)))), np.array(rows, dtype=np.int64), ("a", "b", "c"), "here")
    limit = data.draw(st.integers(1, len(rows)))
    sample = limited(whole, limit, seed=seed)
    assert len(sample) == len(set(sample.texts)) == limit
    assert sample.texts == limited(whole, limit, seed=seed).texts


def test_another_seed_cuts_other_texts() -> None:
    data = several(*["10", "01", "11"] * 30)
    first, second = (split_off(data, count=9, seed=seed, name="validation")[1].texts for seed in (0, 1))
    assert first != second
