"""Sentence pairs in files and data sets: reading, duplicates, overlaps, and what identifies a pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distill.data import Dataset, fingerprint, fold, load_splits, read_texts, texts_not_in
from distill.data.dataset import merge_duplicates, without_texts_of
from distill.data.files import BadRows, Columns, read_rows
from distill.errors import DatasetError, SettingsError
from distill.settings import DataSettings, TextSettings
from distill.teachers.answer_store import keys_of
from distill.teachers.recorded import RecordedLogits
from distill.texts import TextInput, content_of, of_content
from distill.training.processes import MappedTexts

PAIRS = Columns("question", "label", max_text_chars=1000, pair="answer")


def dataset(texts: list[TextInput], label_ids: list[int]) -> Dataset:
    return Dataset(tuple(texts), np.array(label_ids), ("no", "yes"), "pairs")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_both_texts_are_read_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"a.{suffix}"
    record = {"question": "who?", "answer": "we", "label": "yes"}
    if suffix == "parquet":
        pq.write_table(pa.table({name: [value] for name, value in record.items()}), path)
    elif suffix == "jsonl":
        path.write_text(json.dumps(record) + "\n")
    else:
        cut = "\t" if suffix == "tsv" else ","
        path.write_text(f"{cut.join(record)}\n{cut.join(record.values())}\n")
    assert [row.text for row in read_rows(path, PAIRS, BadRows(skip=False))] == [("who?", "we")]


def test_a_missing_column_of_second_texts_is_named_with_its_flag(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,label\nwho?,yes\n")
    with pytest.raises(DatasetError) as caught:
        list(read_rows(path, PAIRS, BadRows(skip=False)))
    assert all(fact in str(caught.value) for fact in ("'answer'", "--pair-column"))


def test_an_empty_second_text_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer,label\nwho?,we,yes\nwhat?,,no\n")
    with pytest.raises(DatasetError, match="'answer'") as caught:
        list(read_rows(path, PAIRS, BadRows(skip=False)))
    assert caught.value.line == 3


def test_pairs_are_equal_when_both_texts_are() -> None:
    given = dataset([("A  b", "c"), ("a b", "C"), ("a", "b c"), ("c", "a b")], [1, 1, 0, 0])
    merged = merge_duplicates(given)
    assert merged.texts == (("A  b", "c"), ("a", "b c"), ("c", "a b"))
    assert without_texts_of(merged, given.take([2])).texts == (("A  b", "c"), ("c", "a b"))
    assert list(texts_not_in([("x", "y"), ("a", "B c"), ("x", "Y")], [given])) == [("x", "y")]


def test_a_pair_differs_from_its_texts_joined_and_from_other_cuts() -> None:
    texts: list[TextInput] = [("a", "b c"), ("a b", "c"), "a b c", "a\nb c", ("b c", "a"), "ab c"]
    assert len({fingerprint([text]) for text in texts}) == len(texts)
    assert len({content_of(text) for text in texts}) == len(texts)
    assert len({tuple(key) for key in keys_of(texts).tolist()}) == len(texts)
    assert fold(("a", "b c")) != fold("a b c") == fold("a\nb c")


def test_a_single_text_is_identified_as_before() -> None:
    assert content_of("caf\u00e9 \ud800") == "caf\u00e9 \ud800".encode(errors="surrogatepass")


@pytest.mark.parametrize("text", ["", "caf\u00e9", ("who?", "w\u00e9"), ("", ""), ("\ud800", "\U0001f600")])
def test_texts_and_pairs_come_back_from_their_bytes(tmp_path: Path, text: TextInput) -> None:
    assert of_content(content_of(text)) == text
    assert list(MappedTexts.write(tmp_path / "texts", [text, ("a", "b")])) == [text, ("a", "b")]


def test_pairs_and_single_texts_are_not_mixed() -> None:
    with pytest.raises(DatasetError, match="pairs"):
        dataset([("a", "b"), "c"], [0, 1])
    with pytest.raises(SettingsError, match="--pair-column"):
        load_splits(DataSettings(train=("builtin:movies",), pair_column="answer"))
    with pytest.raises(SettingsError, match="--pair-column"):
        list(read_texts("builtin:movies", TextSettings(pair_column="answer")))


def test_what_reads_single_texts_refuses_pairs() -> None:
    assert dataset(["a", "b"], [0, 1]).single_texts() == ("a", "b")
    with pytest.raises(DatasetError, match="pairs"):
        dataset([("a", "b")], [0]).single_texts()


def test_recorded_logits_are_found_by_pair(tmp_path: Path) -> None:
    recorded = RecordedLogits([(("a", "b c"), [1.0, 2.0]), (("a b", "c"), [3.0, 4.0])], labels=("no", "yes"), folder=tmp_path)
    assert recorded.predict_logits([("a b", "c"), ("a", "b c")]).tolist() == [[3, 4], [1, 2]]
    with pytest.raises(DatasetError, match="a b c"):
        recorded.predict_logits(["a b c"])
