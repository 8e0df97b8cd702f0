"""From named sources to clean, disjoint, stratified parts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data import Dataset, fingerprint, limited, load_splits, read_labelled, read_texts, texts_not_in
from distill.data.dataset import fold, merge_duplicates, require_usable, split_off, without_texts_of
from distill.errors import DatasetError, SettingsError
from distill.settings import DataSettings, TextSettings

Rows = list[tuple[str, str]]
WriteCsv = Callable[[str, Rows], str]


def dataset(*pairs: tuple[str, int], labels: tuple[str, ...] = ("bad", "good"), source: str = "here") -> Dataset:
    return Dataset(tuple(text for text, _ in pairs), np.array([label for _, label in pairs], dtype=np.int64), labels, source)


def counted(*counts: int) -> Dataset:
    """Return a set with so many texts of each label, all different."""
    pairs = [(f"text {label} {number}", label) for label, count in enumerate(counts) for number in range(count)]
    return dataset(*pairs, labels=tuple(f"label{label}" for label in range(len(counts))))


def many(count: int, start: int = 0) -> Rows:
    """Return texts that alternate between two labels."""
    return [(f"text {number}", ("bad", "good")[number % 2]) for number in range(start, start + count)]


@pytest.fixture
def csv(tmp_path: Path) -> WriteCsv:
    """Return a function that writes a CSV and returns its name."""

    def write(name: str, rows: Rows) -> str:
        path = tmp_path / name
        path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
        return str(path)

    return write


# Folding and merging


@pytest.mark.parametrize("other", ["a fine FILM", "  A  fine\tfilm ", "A\u00a0Fine\nFilm"])
def test_case_and_space_do_not_make_another_text(other: str) -> None:
    assert fold("A fine film") == fold(other)


def test_folding_knows_more_than_lower_case() -> None:
    assert fold("Straße") == fold("STRASSE")
    assert fold("a b") != fold("ab")


def test_repeated_texts_are_merged_into_the_first_and_counted() -> None:
    merged = merge_duplicates(dataset(("One", 0), ("two", 1), ("one ", 0), ("ONE", 0), ("three", 1)))
    assert merged.texts == ("One", "two", "three")
    assert merged.label_ids.tolist() == [0, 1, 1]
    assert merged.notes == ("here: merged 2 repeated texts",)


def test_a_text_under_two_labels_is_dropped_altogether() -> None:
    merged = merge_duplicates(dataset(("one", 0), ("two", 1), ("ONE", 1), ("one", 0), ("three", 0)))
    assert merged.texts == ("two", "three")
    (note,) = merged.notes
    assert note.startswith("here: dropped 3 texts")


def test_a_clean_set_is_returned_without_a_note() -> None:
    clean = dataset(("one", 0), ("two", 1))
    assert merge_duplicates(clean) is clean


def test_overlap_is_found_after_folding_and_said() -> None:
    kept = without_texts_of(dataset(("one", 0), ("Two", 1), ("three", 1)), dataset(("TWO", 0), source="there"))
    assert kept.texts == ("one", "three")
    (note,) = kept.notes
    assert note.startswith("here: dropped 1 texts")
    assert note.endswith("there")


def test_unlabelled_texts_are_taken_once_and_never_from_other_parts() -> None:
    assert list(texts_not_in(["new", "One", "NEW", "other"], [dataset(("one", 0)), dataset(("two", 1))])) == ["new", "other"]


# Cuts


def test_a_cut_keeps_the_proportions() -> None:
    rest, cut = split_off(counted(600, 300, 100), count=100, seed=0, name="validation")
    assert list(cut.counts.values()) == [60, 30, 10]
    assert list(rest.counts.values()) == [540, 270, 90]


def test_remainders_go_to_the_labels_that_lost_most() -> None:
    # 10 of 26 texts: 5.77, 2.69 and 1.54, so 5 + 2 + 1 whole ones, and the two left go to .77 and .69.
    _, cut = split_off(counted(15, 7, 4), count=10, seed=0, name="validation")
    assert list(cut.counts.values()) == [6, 3, 1]


@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_both_sides_of_a_cut_know_every_label_where_that_is_possible(counts: list[int], share: float, seed: int) -> None:
    whole = counted(*counts)
    smallest, largest = len(counts), len(whole) - len(counts)
    count = smallest + round(share * (largest - smallest))
    rest, cut = split_off(whole, count=count, seed=seed, name="validation")
    assert len(cut) == count
    assert sorted(rest.texts + cut.texts) == sorted(whole.texts)
    assert min(rest.counts.values()) >= 1
    assert min(cut.counts.values()) >= 1
    label_of = dict(zip(whole.texts, whole.label_ids, strict=True))
    for part in (rest, cut):
        assert [label_of[text] for text in part.texts] == part.label_ids.tolist()


def test_the_same_seed_cuts_the_same_texts_and_another_seed_others() -> None:
    whole = counted(50, 50)
    first, again, other = (split_off(whole, count=20, seed=seed, name="test")[1] for seed in (1, 1, 2))
    assert first.texts == again.texts
    assert first.texts != other.texts


def test_which_texts_are_cut_is_fixed_for_good() -> None:
    # Splits are part of every published number: numpy's generator, and our way of asking it, must not move them.
    _, cut = split_off(counted(5, 5), count=4, seed=0, name="test")
    generator = np.random.default_rng(0)
    expected = sorted(generator.permutation(5)[:2].tolist()) + sorted((5 + generator.permutation(5)[:2]).tolist())
    assert [counted(5, 5).texts.index(text) for text in cut.texts] == expected


@pytest.mark.parametrize("count", [0, 4, 5])
def test_a_cut_that_leaves_one_side_empty_is_refused(count: int) -> None:
    with pytest.raises(DatasetError, match=f"{count} validation texts from 4"):
        split_off(counted(2, 2), count=count, seed=0, name="validation")


def test_a_label_seen_once_is_refused_by_name() -> None:
    with pytest.raises(DatasetError, match="'label1'"):
        require_usable(counted(5, 1, 2))


def test_one_label_only_is_refused_by_name() -> None:
    with pytest.raises(DatasetError, match="every text has the label 'label1'"):
        require_usable(counted(0, 5))


def test_a_label_that_only_a_teacher_knows_is_no_reason_to_refuse() -> None:
    require_usable(counted(3, 0, 3))


def test_a_sample_is_stratified_and_said() -> None:
    sample = limited(counted(60, 40), 10, seed=0)
    assert list(sample.counts.values()) == [6, 4]
    assert sample.notes == ("here: a sample of 10 of 100 texts",)
    assert limited(sample, 10, seed=0) is sample
    assert limited(sample, None, seed=0) is sample


@pytest.mark.parametrize("counts", [(60, 1), (60, 0)])
def test_a_sample_of_test_texts_may_hold_a_label_once_or_not_at_all(counts: tuple[int, int]) -> None:
    assert len(limited(counted(*counts), 20, seed=0)) == 20


# Fingerprints


def test_a_fingerprint_moves_with_every_text_label_and_order() -> None:
    sets = [
        dataset(("one", 0), ("two", 1)),
        dataset(("one", 0), ("tvo", 1)),
        dataset(("one", 0), ("two", 0)),
        dataset(("two", 1), ("one", 0)),
        dataset(("one", 0), ("two", 1), labels=("bad", "fine")),
        dataset(("one", 0)),
        dataset(),
    ]
    assert len({each.fingerprint() for each in sets}) == len(sets)


def test_a_fingerprint_is_of_the_content_and_not_of_its_name_or_numbering() -> None:
    one = dataset(("one", 0), ("two", 1), labels=("bad", "good"), source="a.csv")
    other = dataset(("one", 1), ("two", 0), labels=("good", "bad"), source="b.csv")
    assert one.fingerprint() == other.fingerprint()


@given(st.lists(st.text("ab:;1 ", max_size=3), max_size=4), st.lists(st.text("ab:;1 ", max_size=3), max_size=4))
def test_two_lists_of_texts_share_a_fingerprint_only_when_they_are_equal(first: list[str], second: list[str]) -> None:
    assert (fingerprint(first) == fingerprint(second)) == (first == second)
    assert fingerprint(first, second) != fingerprint([*first, *second], []) or not second


def test_where_one_text_ends_and_the_next_begins_is_part_of_the_fingerprint() -> None:
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint(["a", "b"]) != fingerprint(["a"], ["b"])
    assert fingerprint(["a1:b", "c"]) != fingerprint(["a", "b1:c"])


def test_texts_and_labels_of_different_length_are_refused() -> None:
    with pytest.raises(DatasetError, match="2 texts and 1 labels"):
        Dataset(("a", "b"), np.array([0]), ("x",), "here")


def test_rows_are_taken_in_the_order_asked_for_with_their_labels() -> None:
    taken = counted(3, 2).take([4, 0], "noted")
    assert taken.texts == ("text 1 1", "text 0 0")
    assert taken.label_ids.tolist() == [1, 0]
    assert taken.notes == ("noted",)


# Whole splits


WORDS = st.sampled_from(
    ["film", "Film", "FILM ", " film", "plot", "Plot  twist", "plot TWIST", "the end", "The\tEnd", "a", "b", "c", "d"]
)


@settings(max_examples=60)
@given(train=st.lists(WORDS), validation=st.lists(WORDS), test=st.lists(WORDS), given_validation=st.booleans())
def test_no_text_is_in_two_splits(
    tmp_path_factory: pytest.TempPathFactory, train: list[str], validation: list[str], test: list[str], given_validation: bool
) -> None:
    folder = tmp_path_factory.mktemp("splits")

    def written(name: str, texts: list[str]) -> str:
        # The label hangs on the folded text alone, so nothing is contradicted; texts of its own keep each part alive.
        rows = [(text, len(fold(text)) % 2) for text in texts] + [(f"{name} {number}", number % 2) for number in range(8)]
        path = folder / f"{name}.csv"
        path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
        return str(path)

    splits = load_splits(
        DataSettings(
            train=(written("train", train),),
            validation=written("validation", validation) if given_validation else None,
            test=written("test", test),
            validation_share=0.3,
        )
    )
    assert splits.test is not None
    sides = [{fold(text) for text in part.texts} for part in (splits.train, splits.validation, splits.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert {fold(text) for text in test} <= sides[2]  # the test texts stay as they were given


def test_validation_texts_are_cut_from_training_texts(csv: WriteCsv) -> None:
    splits = load_splits(DataSettings(train=(csv("a.csv", many(100)),), validation_share=0.2))
    assert splits.test is None
    assert splits.validation.counts == {"bad": 10, "good": 10}
    assert splits.train.counts == {"bad": 40, "good": 40}


def test_the_split_seed_decides_the_cut(csv: WriteCsv) -> None:
    path = csv("a.csv", many(100))
    cuts = [load_splits(DataSettings(train=(path,), split_seed=seed)).validation.texts for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1]
    assert cuts[0] != cuts[2]


def test_overlapping_files_are_made_disjoint_and_every_drop_is_said(csv: WriteCsv) -> None:
    train = csv("train.csv", [*many(20), ("SHARED one", "bad"), ("shared two", "good"), ("text 1", "good")])
    validation = csv("validation.csv", [*many(10, 100), ("shared  one", "bad"), ("shared three", "bad")])
    test = csv("test.csv", [*many(10, 200), ("shared two", "good"), ("Shared Three", "bad")])
    splits = load_splits(DataSettings(train=(train,), validation=validation, test=test))
    assert (len(splits.train), len(splits.validation), splits.test and len(splits.test)) == (20, 11, 12)
    assert splits.notes == (
        f"{train}: merged 1 repeated texts",
        f"{train}: dropped 1 texts that are also in {test}",
        f"{train}: dropped 1 texts that are also in {validation}",
        f"{validation}: dropped 1 texts that are also in {test}",
    )


@pytest.mark.parametrize(("flag", "left"), [("test", "training"), ("validation", "training")])
def test_one_file_for_two_parts_is_refused(csv: WriteCsv, flag: str, left: str) -> None:
    path = csv("a.csv", many(20))
    with pytest.raises(DatasetError, match=rf"a.csv has no {left} text \(.*dropped 20 texts .*a.csv\)"):
        load_splits(DataSettings(train=(path,), **{flag: path}))


def test_validation_texts_that_all_stand_in_the_test_texts_are_refused(csv: WriteCsv) -> None:
    other = csv("b.csv", many(20, 100))
    with pytest.raises(DatasetError, match="no validation text"):
        load_splits(DataSettings(train=(csv("a.csv", many(20)),), validation=other, test=other))


@pytest.mark.parametrize(("flag", "part"), [("test", "test"), ("validation", "validation"), ("train", "training")])
def test_a_file_with_a_header_only_is_refused(csv: WriteCsv, flag: str, part: str) -> None:
    full, empty = csv("a.csv", many(20)), csv("empty.csv", [])
    named: dict[str, Any] = {"train": (full,), flag: (empty,) if flag == "train" else empty}
    with pytest.raises(DatasetError, match=rf"empty.csv .* {part} text"):
        load_splits(DataSettings(**named))


def test_two_texts_of_a_label_suffice(csv: WriteCsv) -> None:
    splits = load_splits(DataSettings(train=(csv("a.csv", many(4)),)))
    assert splits.train.counts == splits.validation.counts == {"bad": 1, "good": 1}


def test_a_label_seen_once_in_a_file_is_refused(csv: WriteCsv) -> None:
    with pytest.raises(DatasetError, match="'odd'"):
        load_splits(DataSettings(train=(csv("a.csv", [*many(20), ("strange", "odd")]),)))


def test_a_file_with_one_label_is_refused(csv: WriteCsv) -> None:
    with pytest.raises(DatasetError, match="every text has the label 'good'"):
        load_splits(DataSettings(train=(csv("a.csv", [("a", "good"), ("b", "good")]),)))


def test_no_training_texts_is_a_setting_to_mend() -> None:
    with pytest.raises(SettingsError, match="no training texts; name a file with --train"):
        load_splits(DataSettings())


def test_the_limit_holds_for_every_part(csv: WriteCsv) -> None:
    splits = load_splits(
        DataSettings(train=(csv("a.csv", many(100)),), test=csv("test.csv", [*many(30, 200), ("rare", "good")]), limit=10)
    )
    assert [len(part) for part in (splits.train, splits.validation, splits.test) if part is not None] == [10, 10, 10]
    assert any("a sample of 10 of 31 texts" in note for note in splits.notes)


def test_rows_left_out_are_counted_and_the_first_is_shown(csv: WriteCsv) -> None:
    path = csv("a.csv", [*many(20), ("", "good"), ("  ", "bad")])
    with pytest.raises(DatasetError, match=r"a\.csv:22: the text is empty"):
        load_splits(DataSettings(train=(path,)))
    notes = load_splits(DataSettings(train=(path,), skip_bad_rows=True)).notes
    assert len(notes) == 1
    assert notes[0].startswith(f"{path}: skipped 2 unusable rows")
    assert f"{path}:22: the text is empty" in notes[0]


def test_a_file_of_bad_rows_alone_says_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"remark": "x", "label": "good"}\n' * 3)
    with pytest.raises(DatasetError, match=r"a.jsonl:1 has no column 'text'"):
        read_labelled(str(path), "train", DataSettings(skip_bad_rows=True))


# Labels


def label_ids(source: str, labels: tuple[str, ...] = ()) -> tuple[tuple[str, ...], list[int]]:
    read = read_labelled(source, "test", DataSettings(), labels=labels)
    return read.labels, read.label_ids.tolist()


def test_labels_found_are_ordered_by_name_or_by_number(csv: WriteCsv) -> None:
    assert label_ids(csv("a.csv", [("a", "ok"), ("b", "bad"), ("c", "Good")])) == (("Good", "bad", "ok"), [2, 1, 0])
    assert label_ids(csv("b.csv", [("a", "10"), ("b", "9"), ("c", "-1")])) == (("-1", "9", "10"), [2, 1, 0])


def test_labels_are_mapped_by_name_to_the_order_asked_for(csv: WriteCsv) -> None:
    path = csv("a.csv", [("a", "bad"), ("b", "good"), ("c", "bad")])
    assert label_ids(path, ("good", "bad")) == (("good", "bad"), [1, 0, 1])
    assert read_labelled(path, "train", DataSettings(labels=("good", "ok", "bad"))).label_ids.tolist() == [2, 0, 2]


def test_labels_by_number_are_positions_among_the_names(csv: WriteCsv) -> None:
    assert label_ids(csv("a.csv", [("a", "1"), ("b", "0")]), ("good", "bad")) == (("good", "bad"), [1, 0])


@pytest.mark.parametrize(
    ("labels", "value"),
    [
        (("bad", "good"), "neutral"),
        (("bad", "good"), "2"),
        (("bad", "good"), "Good"),
        (("1", "2"), "0"),
        (("bad", "good"), "-1"),
    ],
)
def test_an_unknown_label_is_refused_with_its_line(csv: WriteCsv, labels: tuple[str, ...], value: str) -> None:
    path = csv("a.csv", [("a", labels[0]), ("b", value)] if value != "0" else [("z", "0"), ("a", "0")])
    with pytest.raises(DatasetError) as caught:
        label_ids(path, labels)
    line = 2 if value == "0" else 3
    assert str(caught.value).startswith(f"{path}:{line}: label {value!r} is not one of {labels[0]!r}, {labels[1]!r}")
    assert caught.value.line == line


def test_a_test_file_must_use_the_labels_of_the_training_file(csv: WriteCsv) -> None:
    settings = DataSettings(train=(csv("a.csv", many(20)),), test=csv("test.csv", [("x", "good"), ("y", "awful")]))
    with pytest.raises(DatasetError, match=r"test.csv:3: label 'awful' is not one of 'bad', 'good'"):
        load_splits(settings)


# Several training files


def test_training_files_are_joined_with_the_labels_of_all(csv: WriteCsv) -> None:
    first, second = csv("a.csv", many(20)), csv("b.csv", [("x", "average"), ("y", "average"), ("Text 0", "bad"), ("z", "good")])
    splits = load_splits(DataSettings(train=(first, second), validation=csv("v.csv", many(4, 300))))
    assert splits.train.labels == ("average", "bad", "good")
    assert splits.train.counts == {"average": 2, "bad": 10, "good": 11}
    assert dict(zip(splits.train.texts, splits.train.label_ids.tolist(), strict=True))["z"] == 2
    assert splits.train.source == f"{first} + {second}"
    assert splits.notes == (f"{first} + {second}: merged 1 repeated texts",)


def test_files_that_contradict_each_other_lose_the_text(csv: WriteCsv) -> None:
    paths = csv("a.csv", many(20)), csv("b.csv", [("text 0", "good"), ("other", "good")])
    splits = load_splits(DataSettings(train=paths))
    assert "text 0" not in splits.train.texts + splits.validation.texts
    assert any("dropped 2 texts" in note for note in splits.notes)


def test_files_labelled_by_name_and_by_number_are_not_guessed_together(csv: WriteCsv) -> None:
    paths = csv("a.csv", many(20)), csv("b.csv", [("x", "0"), ("y", "1")])
    with pytest.raises(DatasetError, match=r"b.csv has its labels by number, .*a.csv by name; .*--labels"):
        load_splits(DataSettings(train=paths))
    told = load_splits(DataSettings(train=paths, labels=("bad", "good")))
    assert len(told.train) + len(told.validation) == 22


# Texts without labels


def test_texts_are_read_in_order_from_a_file_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,review\n1,one\n2,two\n")
    assert list(read_texts(str(path), TextSettings(text_column="review"))) == ["one", "two"]


def test_texts_left_out_are_counted_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,id\none,1\n" ",2\ntwo,3\n')
    with caplog.at_level(logging.WARNING):
        assert list(read_texts(str(path), TextSettings(skip_bad_rows=True))) == ["one", "two"]
    assert f"skipped 1 unusable rows; the first: {path}:3" in caplog.text
    with pytest.raises(DatasetError, match=r"a\.csv:3: the text is empty"):
        list(read_texts(str(path), TextSettings()))


# hub:


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a local folder that `datasets` loads as it would a set on the hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "reviews"
    folder.mkdir()
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["pos", "neg"]))
    for split, rows in {
        "train": [(f"text {number}", number % 2) for number in range(20)],
        "test": [("one", 0), ("two", 1), ("three", 1)],
        "unfinished": [("one", 0), ("", 1), (None, 1), ("kept back", -1), ("last", 1)],
    }.items():
        content = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        datasets.Dataset.from_dict(content, features=features).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {split}-*.parquet\n" for split in ("train", "test", "unfinished"))
        + "---\n"
    )
    return folder


def test_a_hub_set_is_read_with_the_names_of_its_classes(hub_folder: Path) -> None:
    test = read_labelled(f"hub:{hub_folder}", "test", DataSettings())
    assert test.texts == ("one", "two", "three")
    assert [test.labels[label] for label in test.label_ids] == ["pos", "neg", "neg"]


def test_a_hub_set_gives_whole_splits(hub_folder: Path) -> None:
    source = f"hub:{hub_folder}"
    splits = load_splits(DataSettings(train=(source,), test=source))
    assert (len(splits.train), len(splits.validation), splits.test and len(splits.test)) == (18, 2, 3)


def test_a_hub_split_can_be_chosen(hub_folder: Path) -> None:
    assert len(read_labelled(f"hub:{hub_folder}@test", "train", DataSettings())) == 3
    assert len(read_labelled(f"hub:{hub_folder}:default@train", "test", DataSettings())) == 20


def test_a_missing_hub_split_is_refused_with_those_present(hub_folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"'validation'.* train, test, unfinished.*hub:ID@SPLIT"):
        read_labelled(f"hub:{hub_folder}", "validation", DataSettings())


def test_a_missing_hub_column_is_refused_with_those_present(hub_folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"'sentence'.* 'text', 'label'.*--text-column"):
        read_labelled(f"hub:{hub_folder}", "test", DataSettings(text_column="sentence"))


def test_bad_rows_of_a_hub_set_are_judged_like_those_of_a_file(hub_folder: Path) -> None:
    source = f"hub:{hub_folder}@unfinished"
    with pytest.raises(DatasetError, match=r"@unfinished:2: the text is empty"):
        read_labelled(source, "train", DataSettings())
    kept = read_labelled(source, "train", DataSettings(skip_bad_rows=True))
    assert kept.texts == ("one", "last")
    assert "skipped 3 unusable rows" in kept.notes[0]


@pytest.fixture
def hub_cache(hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a hub cache with the set as `hf download --repo-type dataset someone/reviews` leaves it."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "datasets--someone--reviews"
    snapshot, blobs = repository / "snapshots" / revision, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    for number, path in enumerate(sorted(hub_folder.iterdir())):
        path.rename(blobs / f"{number:064x}")
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", f"{number:064x}"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment when it is imported
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return repository


def test_a_set_in_the_local_hub_cache_is_read_without_a_network(hub_cache: Path) -> None:
    test = read_labelled("hub:someone/reviews", "test", DataSettings())
    assert test.texts == ("one", "two", "three")
    assert [test.labels[label] for label in test.label_ids] == ["pos", "neg", "neg"]
    assert any("0123456789ab" in note for note in test.notes)
    assert len(read_labelled("hub:someone/reviews:default@train", "test", DataSettings())) == 20


def test_a_set_that_is_not_in_the_cache_is_refused_with_the_reason(hub_cache: Path) -> None:
    with pytest.raises(DatasetError, match=r"hub:someone/other cannot be loaded.*check the name and the network"):
        read_labelled("hub:someone/other", "test", DataSettings())


def test_a_hub_set_that_is_not_there_is_refused(hub_folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot be loaded: .*; check the name and the network"):
        read_labelled(f"hub:{hub_folder / 'absent'}", "train", DataSettings())


def test_labels_that_differ_from_the_teachers_are_refused_not_ignored(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("text,label\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(20)))
    settings = DataSettings(train=(str(source),), labels=("b", "a"))
    with pytest.raises(SettingsError, match=r"--labels.*'b', 'a'.*'a', 'c'"):
        load_splits(settings, labels=("a", "c"))
    assert load_splits(settings, labels=("b", "a")).train.labels == ("b", "a")


@pytest.mark.parametrize("labels", [("a", "b"), ("b", "a")])
def test_class_ids_are_read_in_the_order_of_the_flags_and_numbered_in_the_teachers(
    labels: tuple[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "ids.csv"
    source.write_text("text,label\n" + "".join(f"text {number},{number % 2}\n" for number in range(20)))
    settings = DataSettings(train=(str(source),), labels=("b", "a"))  # 0 is b
    splits = load_splits(settings, labels=labels)
    for part in (splits.train, splits.validation):
        assert part.labels == labels
        named = {text: part.label_names(row) for row, text in enumerate(part.texts)}
        assert all(name == "ba"[int(str(text).split()[1]) % 2] for text, name in named.items())


@pytest.mark.parametrize("labels", [["x", "y", "x"], [["x"], ["x", "y"], ["y"]]])
def test_labels_are_renumbered_by_name(labels: list[Any]) -> None:
    data = Dataset.from_texts(["one", "two", "three"], labels)
    turned = data.in_order(("y", "x"))
    assert (data.labels, turned.labels) == (("x", "y"), ("y", "x"))
    assert turned.fingerprint() == data.fingerprint()  # of names, not of numbers
    assert (turned.label_ids != data.label_ids).any()
    assert turned.in_order(("x", "y")).label_ids.tolist() == data.label_ids.tolist()
    with pytest.raises(DatasetError, match=r"\['x', 'y'\], not \['x', 'z'\]"):
        data.in_order(("x", "z"))
