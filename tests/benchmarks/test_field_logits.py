"""Published logits: what is written is found again by text, in half precision, and nothing else is found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.field.logits import PublishedLogits, write_logits
from benchmarks.field.study import SST2
from benchmarks.field.texts import read_field
from benchmarks.harness.results import FOLDER
from distill.errors import DatasetError
from distill.labels import Logits
from distill.teachers.teacher import open_teacher

LABELS = ("negative", "positive")


def part(name: str, count: int) -> tuple[list[str], Logits]:
    texts = [f"{name} {number}" for number in range(count)]
    return texts, np.random.default_rng(count).normal(0, 3, (count, 2)).astype(np.float32)


def test_every_text_is_found_with_its_own_logits(tmp_path: Path) -> None:
    parts = {"train": part("train", 500), "copies": part("copy", 300)}
    path = tmp_path / "set.npz"
    assert write_logits(path, parts, labels=LABELS, teacher="a" * 64) == {"train": 500, "copies": 300}
    found = PublishedLogits(path)
    assert (found.labels, found.teacher) == (LABELS, "a" * 64)
    for texts, logits in parts.values():
        np.testing.assert_array_equal(found.predict_logits(texts[::-1]), logits[::-1].astype(np.float16))
    assert found.predict_logits(["copy 7"]).dtype == np.float32


def test_other_texts_are_not_known_and_not_answered(tmp_path: Path) -> None:
    write_logits(tmp_path / "set.npz", {"train": part("train", 50)}, labels=LABELS, teacher="a")
    found = PublishedLogits(tmp_path / "set.npz")
    assert found.knows(["train 3", "train 50", ""]).tolist() == [True, False, False]
    with pytest.raises(DatasetError, match="no published logits of the text 'train 50'"):
        found.predict_logits(["train 3", "train 50"])


def test_a_text_of_two_parts_is_written_once(tmp_path: Path) -> None:
    texts, logits = part("train", 20)
    write_logits(
        tmp_path / "set.npz", {"train": (texts, logits), "copies": (texts[:5], logits[:5])}, labels=LABELS, teacher="a"
    )
    np.testing.assert_array_equal(PublishedLogits(tmp_path / "set.npz").predict_logits(texts), logits.astype(np.float16))


def test_a_part_that_does_not_fit_is_left_out_and_a_smaller_one_after_it_is_not(tmp_path: Path) -> None:
    parts = {"train": part("train", 200), "copies": part("copy", 20_000), "further": part("further", 200)}
    counts = write_logits(tmp_path / "set.npz", parts, labels=LABELS, teacher="a", max_bytes=10_000)
    assert counts == {"train": 200, "copies": 0, "further": 200}
    assert (tmp_path / "set.npz").stat().st_size <= 10_000
    found = PublishedLogits(tmp_path / "set.npz")
    assert found.knows(["further 3", "copy 3"]).tolist() == [True, False]
    with pytest.raises(DatasetError, match="the logits of train alone take more than 100 bytes"):
        write_logits(tmp_path / "none.npz", parts, labels=LABELS, teacher="a", max_bytes=100)
    assert not (tmp_path / "none.npz").exists()


def test_three_hundred_thousand_texts_of_two_labels_fit(tmp_path: Path) -> None:
    parts = {"copies": part("copy", 330_000)}
    assert write_logits(tmp_path / "set.npz", parts, labels=LABELS, teacher="a")["copies"] == 330_000


def test_the_same_logits_make_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_logits(tmp_path / f"{name}.npz", {"train": part("train", 100)}, labels=LABELS, teacher="a")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"set\.npz has no teacher logits"):
        PublishedLogits(tmp_path / "set.npz")


def test_a_file_is_a_teacher(tmp_path: Path) -> None:
    write_logits(tmp_path / "set.npz", {"train": part("train", 20)}, labels=LABELS, teacher="a")
    teacher = open_teacher(PublishedLogits(tmp_path / "set.npz"), device="cpu")
    assert teacher.torch_member() is None
    assert teacher.digest() == PublishedLogits(tmp_path / "set.npz").digest()


def test_the_committed_logits_answer_the_whole_set() -> None:
    path, folder = FOLDER / "sst2-logits.npz", os.environ.get("POTSTILL_SST2")
    if not path.is_file() or folder is None:
        pytest.skip("there are committed logits, and POTSTILL_SST2 names the folder of SST-2, in some places only")
    texts = read_field(Path(folder), measuring=SST2.measuring, unlabeled=())
    found = PublishedLogits(path)
    for data in (texts.splits.train, texts.splits.validation, *texts.measuring.values()):
        assert found.knows(data.texts).all()
    dev = texts.measuring["dev"]
    assert (found.predict_logits(dev.texts).argmax(axis=1) == dev.label_ids).mean() > 0.9
