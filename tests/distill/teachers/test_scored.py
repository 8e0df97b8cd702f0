"""What `potstill score --logits` wrote stands in for its teacher's answers, and only where it may."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_task import Outcome, tiny_texts, write_csv

from distill.bundle import Bundle
from distill.errors import DatasetError, SettingsError
from distill.progress import SilentReporter
from distill.teachers.answer_store import AnswerStore, soft_targets_dir
from distill.teachers.answers import teacher_logits
from distill.teachers.teacher import Teacher, open_teacher, with_scored
from serve.bulk.run import score
from serve.bulk.settings import ScoreSettings

TEXTS = [text for text, _ in tiny_texts(60, seed=12)]
OTHERS = [text for text, _ in tiny_texts(20, seed=13)]


def scored_folder(bundle: Bundle, folder: Path, **changes: Any) -> Path:
    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), folder / "in.parquet")
    settings = ScoreSettings(**{"key": ("id",), "columns": ("text",), "logits": True, "part_rows": 25, "workers": 1, **changes})
    score(bundle, [str(folder / "in.parquet")], str(folder / "out"), settings=settings)
    return folder / "out"


@pytest.fixture(scope="module")
def folder(tiny_student: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return three parts, scored with the tiny student; do not change it."""
    return scored_folder(tiny_student, tmp_path_factory.mktemp("scored"), answer_prefix="teacher_")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))


def opened(bundle: Bundle, *folders: Path) -> Teacher:
    return with_scored(open_teacher(bundle, device="cpu"), folders, reporter=SilentReporter())


def test_scored_texts_have_the_graphs_logits_and_the_others_the_teachers_own(tiny_student: Bundle, folder: Path) -> None:
    table = pa.concat_tables(pq.read_table(part) for part in sorted(folder.glob("part-*")))
    written = dict(zip(table["text"].to_pylist(), table["teacher_logits"].to_pylist(), strict=True))
    own = teacher_logits(open_teacher(tiny_student, device="cpu").asked, (*TEXTS, *OTHERS))
    teacher = opened(tiny_student, folder)
    asked = teacher_logits(teacher.asked, (*OTHERS, *TEXTS, TEXTS[0].upper()))
    assert asked.num_cached == len(OTHERS) + len(TEXTS)  # `own` has left the others' in the cache
    np.testing.assert_array_equal(asked.logits[20:80], np.array([written[text] for text in TEXTS], dtype=np.float32))
    np.testing.assert_array_equal(asked.logits[:20], own.logits[60:])
    assert 0 < np.abs(asked.logits[20:80] - own.logits[:60]).max() < 2  # int8 rounds, and so shows who answered
    assert not np.array_equal(asked.logits[80], asked.logits[20])  # another text to the character: the teacher's own


def test_a_scored_teacher_still_lends_its_layers(tiny_student: Bundle, folder: Path) -> None:
    teacher = opened(tiny_student, folder)
    assert teacher.lender().labels == tiny_student.labels
    assert teacher.names == open_teacher(tiny_student, device="cpu").names
    assert teacher.digest() == opened(tiny_student, folder).digest() != open_teacher(tiny_student, device="cpu").digest()


def test_a_table_is_taken_in_once_and_again_where_a_kill_left_half(
    tiny_student: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tiny_student, folder)
    (taken,) = soft_targets_dir().glob("*.scored")
    whole = taken.read_bytes()
    taken.write_bytes(whole[: len(whole) // 2])
    opened(tiny_student, folder)
    assert taken.read_bytes() == whole

    def refused(*_: Any) -> None:
        raise AssertionError("it was there already")

    monkeypatch.setattr(AnswerStore, "append", refused)
    opened(tiny_student, folder)


def test_a_student_learns_from_a_scored_corpus(
    tmp_path: Path, tiny_student: Bundle, folder: Path, potstill: Callable[..., Outcome]
) -> None:
    train = write_csv(tmp_path / "train.csv", tiny_texts(100, seed=14))
    named = ("--train", train, "--unlabeled", *sorted(folder.glob("part-*")), "--scored", folder)
    settings = ("--num-layers", 1, "--epochs", 1, "--device", "cpu", "--json")
    done = potstill("distill", tiny_student.path, *named, *settings, "--out", tmp_path / "student")
    assert done.code == 0, done.err
    assert re.search(r"scored: .* 60 rows.*int8", done.err)
    assert "teacher logits: 60 of 150 texts were in the cache" in done.err  # 90 to train with, 10 to validate
    assert json.loads(done.out.splitlines()[-1])["lineage"]["unlabeled_fingerprint"]


def test_what_is_not_the_teachers_or_not_whole_is_refused(
    tmp_path: Path, tiny_student: Bundle, tiny_fallback: Bundle, folder: Path
) -> None:
    with pytest.raises(SettingsError, match="another bundle"):
        opened(tiny_fallback, folder)
    with pytest.raises(DatasetError, match=r"_manifest\.json.*--output"):
        opened(tiny_student, tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    part = sorted(damaged.glob("part-*"))[1]
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError, match=f"{part.name} is damaged; run the same `potstill score` again"):
        opened(tiny_student, damaged)
    manifest = json.loads((damaged / "_manifest.json").read_text())
    (damaged / "_manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(DatasetError, match="not complete; run the same `potstill score` again"):
        opened(tiny_student, damaged)
    with pytest.raises(SettingsError, match="second folder"):
        opened(tiny_student, folder, folder)


@pytest.mark.parametrize("lacking", [{"logits": False}, {"columns": ()}])
def test_a_table_without_logits_or_texts_is_refused(lacking: dict[str, Any], tmp_path: Path, tiny_student: Bundle) -> None:
    with pytest.raises(SettingsError, match="--logits --columns text"):
        opened(tiny_student, scored_folder(tiny_student, tmp_path, **lacking))
