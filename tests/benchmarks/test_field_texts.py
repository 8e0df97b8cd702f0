"""The texts of a published set: sentences and their phrases, and sentences that two sets share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.field.texts import SHORTEST, apart_from, read_field, sentences_of, split_by_sentence
from distill.data import Dataset
from distill.errors import DatasetError


def dataset(texts: list[str], source: str = "rows") -> Dataset:
    return Dataset(tuple(texts), np.arange(len(texts)) % 2, ("negative", "positive"), source)


def test_a_row_inside_a_longer_row_belongs_to_it_word_by_word() -> None:
    texts = ["a good film .", "good film", "goo", "good", "a good plot", "film"]
    found = sentences_of(texts)
    assert found.whole == (0, 2, 4)  # "goo" is no word of the others
    assert found.inside == (
        frozenset({0}),
        frozenset({0}),
        frozenset({2}),
        frozenset({0, 4}),
        frozenset({4}),
        frozenset({0}),
    )


def test_no_phrase_of_a_validation_sentence_is_learnt() -> None:
    sentences = [f"s{number} has w{number} and w{number % 7}x" for number in range(100)]
    phrases = [f"has w{number}" for number in range(100)] + [f"w{number}x" for number in range(7)]
    train, validation = split_by_sentence(dataset(sentences + phrases))
    assert len(validation) == 10
    assert set(validation.texts) <= set(sentences)
    assert not set(train.texts) & set(validation.texts)
    for text in train.texts:
        assert not any(f" {text} " in f" {sentence} " for sentence in validation.texts)
    # every other sentence, and its own phrase; a word that a validation sentence shares is lost
    assert set(sentences) - set(validation.texts) <= set(train.texts)
    assert sum(text in train.texts for text in phrases[:100]) == 90


def test_texts_that_share_a_sentence_are_counted_by_part_and_left_out() -> None:
    parts = {
        "train": dataset(["it 's a good film -lrb- or two -rrb- , truly .", "never seen anywhere else at all"]),
        "dev": dataset(["the plot , at least , is new to me & you", "crème brûlée is what it tastes of"]),
    }
    texts = [
        "It's a good film (or two), truly. But why?",  # has the first one inside
        "The plot, at least, is new to me &amp; you.",
        "Creme brulee is what it tastes of",
        "new to me",  # lies inside another, but is too short to say so
        "It is a very good film, this one.",
    ]
    kept, counts = apart_from(texts, parts)
    assert kept == texts[3:]
    assert counts == {
        "further_texts": 5,
        "further_shared_with_train": 1,
        "further_shared_with_dev": 2,
        "further_kept": 2,
    }
    assert len("newtome") < SHORTEST


def test_a_text_that_differs_in_one_word_is_shared_too() -> None:
    part = dataset(
        ["the humor of this long and rather winding story is what makes it a pleasure to watch again", "other words"]
    )
    kept, counts = apart_from(
        ["The humour of this long and rather winding story is what makes it a pleasure to watch again."], {"dev": part}
    )
    assert kept == []
    assert counts["further_shared_with_dev"] == 1


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in rows), encoding="utf-8")


def test_a_folder_is_read_with_what_measures_kept_apart(tmp_path: Path) -> None:
    rows = [(("no", "yes")[number % 2], f'the "text" number {number} is whole') for number in range(40)]
    write(tmp_path / "train.tsv", [*rows, ("yes", "number 3"), ("yes", "what measures is not learnt")])
    write(tmp_path / "dev.tsv", [("yes", "what measures is not learnt"), ("no", "and this")])
    (tmp_path / "more.tsv").write_text("text\nsome other words\nWhat measures is not learnt!\nsome other words\n")
    found = read_field(tmp_path, measuring=("dev",), unlabeled=(str(tmp_path / "more.tsv"),))
    assert len(found.splits.validation) == 4
    assert found.splits.test is found.measuring["dev"]
    assert 'the "text" number 0 is whole' in found.splits.train.texts + found.splits.validation.texts
    assert "what measures is not learnt" not in found.splits.train.texts
    assert found.further == ("some other words",)
    assert found.counts["train_rows"] == 42
    assert found.counts["distinct_rows"] == 41
    assert found.counts["train"] + found.counts["left_out_phrases"] + 4 == 41
    assert found.counts["further_shared_with_dev"] == 1
    assert found.digests.keys() == {"train.tsv", "dev.tsv"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", [("no", "a"), ("yes", "b")])
    with pytest.raises(DatasetError, match=r"has no dev\.tsv; name the folder of the set with --data"):
        read_field(tmp_path, measuring=("dev",), unlabeled=())
