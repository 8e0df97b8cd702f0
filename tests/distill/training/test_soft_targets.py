"""Teacher logits are computed once, found again by content, and never trusted when damaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.errors import DatasetError, StorageError
from distill.training.models import TorchClassifier
from distill.training.soft_targets import KEY_BYTES, teacher_logits

Make = Callable[..., TorchClassifier]
TEXTS = ("a lovely film", "dull", "the plot was funny and the end was warm", "it was cold with awful music", "a great actor")
RECORD_BYTES = KEY_BYTES + 2 * 4 + 4  # key, two float32 logits, checksum


def rows_asked(teacher: TorchClassifier) -> list[int]:
    """Make the teacher note how many rows each call asks it for, and return the notes."""
    asked: list[int] = []
    answer = teacher.logits_of_rows

    def noting(rows: Sequence[np.ndarray], *rest: Any) -> np.ndarray:
        asked.append(len(rows))
        return answer(rows, *rest)

    teacher.logits_of_rows = noting  # type: ignore[method-assign]
    return asked


def cache_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_logits_are_the_teachers_and_the_second_time_the_same_to_the_bit(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    cold = teacher_logits(teacher, TEXTS, folder=tmp_path)
    asked = rows_asked(teacher)
    warm = teacher_logits(teacher, TEXTS, folder=tmp_path)
    assert (cold.num_cached, warm.num_cached) == (0, 5)
    assert asked == []
    assert cold.logits.dtype == warm.logits.dtype == np.float32
    np.testing.assert_array_equal(warm.logits, cold.logits)
    np.testing.assert_array_equal(cold.logits, teacher.predict_logits(TEXTS))
    assert len(np.unique(cold.logits[:, 0])) == len(TEXTS)  # else a wrong order would not show


def test_only_logits_are_kept(make_classifier: Make, tmp_path: Path) -> None:
    teacher_logits(make_classifier(), TEXTS, folder=tmp_path)
    assert cache_file(tmp_path).stat().st_size == len(TEXTS) * RECORD_BYTES


def test_answers_in_bf16_are_kept_apart(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    exact = teacher_logits(teacher, TEXTS, folder=tmp_path)
    rough = teacher_logits(teacher, TEXTS, compute="bf16", folder=tmp_path)
    again = teacher_logits(teacher, TEXTS, compute="bf16", folder=tmp_path)
    assert (rough.num_cached, again.num_cached) == (0, 5)
    np.testing.assert_array_equal(again.logits, rough.logits)
    assert not np.array_equal(rough.logits, exact.logits)
    np.testing.assert_allclose(rough.logits, exact.logits, rtol=0.05, atol=0.1)  # 8 bits of each number
    np.testing.assert_array_equal(teacher_logits(teacher, TEXTS, folder=tmp_path).logits, exact.logits)


def test_rows_that_moved_take_their_logits_with_them(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    first = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    asked = rows_asked(teacher)
    order = [3, 0, 4, 2, 1]
    moved = teacher_logits(teacher, [TEXTS[index] for index in order], folder=tmp_path)
    assert asked == []
    np.testing.assert_array_equal(moved.logits, first[order])


def test_only_new_texts_are_computed(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    teacher_logits(teacher, TEXTS[:2], folder=tmp_path)
    asked = rows_asked(teacher)
    found = teacher_logits(teacher, ("new", *TEXTS[:2], "newer"), folder=tmp_path)
    assert asked == [2]
    assert found.num_cached == 2
    np.testing.assert_allclose(found.logits, teacher.predict_logits(("new", *TEXTS[:2], "newer")), atol=1e-6)


def test_a_repeated_text_is_computed_once(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    asked = rows_asked(teacher)
    logits = teacher_logits(teacher, ("dull", "a great actor", "dull"), folder=tmp_path).logits
    assert asked == [2]
    np.testing.assert_array_equal(logits[0], logits[2])
    assert not np.array_equal(logits[0], logits[1])


def test_texts_that_differ_in_case_alone_are_different_texts(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    asked = rows_asked(teacher)
    teacher_logits(teacher, ("Dull", "dull"), folder=tmp_path)  # equal to this tokenizer, but not to every one
    assert asked == [2]


def test_a_teacher_with_other_weights_is_asked_again(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    before = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    with torch.no_grad():
        next(teacher.model.classifier.parameters())[0, 0] += 1.0
    after = teacher_logits(teacher, TEXTS, folder=tmp_path)
    assert after.num_cached == 0
    assert not np.array_equal(after.logits, before)
    np.testing.assert_array_equal(after.logits, teacher.predict_logits(TEXTS))


def test_a_teacher_that_reads_fewer_tokens_is_asked_again(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier(max_length=32)
    before = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    shorter = replace(teacher, tokenizer=teacher.tokenizer.with_max_length(5))
    after = teacher_logits(shorter, TEXTS, folder=tmp_path)
    assert after.num_cached == 0
    np.testing.assert_allclose(after.logits[1], before[1], atol=1e-6)  # "dull" is 3 tokens, nothing is cut
    assert np.abs(after.logits[2] - before[2]).max() > 1e-3  # the long one is cut


def test_a_teacher_whose_config_differs_is_asked_again(make_classifier: Make, tmp_path: Path) -> None:
    teacher = make_classifier()
    teacher_logits(teacher, TEXTS, folder=tmp_path)
    teacher.model.config.layer_norm_eps = 0.5
    assert teacher_logits(teacher, TEXTS, folder=tmp_path).num_cached == 0


@pytest.mark.parametrize("cut_bytes", [1, RECORD_BYTES - 1, RECORD_BYTES + 3])
def test_a_record_cut_by_a_kill_is_computed_again(make_classifier: Make, tmp_path: Path, cut_bytes: int) -> None:
    teacher = make_classifier()
    whole = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    file = cache_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-cut_bytes])
    lost = -(-cut_bytes // RECORD_BYTES)
    asked = rows_asked(teacher)
    mended = teacher_logits(teacher, TEXTS, folder=tmp_path)
    assert asked == [lost]
    assert mended.num_cached == len(TEXTS) - lost
    np.testing.assert_allclose(mended.logits, whole, atol=1e-6)
    # What was appended after the torn record is found in its place.
    again = teacher_logits(teacher, TEXTS, folder=tmp_path)
    assert asked == [lost]
    np.testing.assert_array_equal(again.logits, mended.logits)


@pytest.mark.parametrize(
    "place", [0, KEY_BYTES, KEY_BYTES + 7, RECORD_BYTES - 1], ids=["key", "logit", "last logit", "checksum"]
)
def test_a_record_with_a_flipped_bit_is_computed_again(make_classifier: Make, tmp_path: Path, place: int) -> None:
    teacher = make_classifier()
    whole = teacher_logits(teacher, TEXTS, folder=tmp_path).logits
    file = cache_file(tmp_path)
    content = bytearray(file.read_bytes())
    content[2 * RECORD_BYTES + place] ^= 0x10
    file.write_bytes(content)
    mended = teacher_logits(teacher, TEXTS, folder=tmp_path)
    assert mended.num_cached == len(TEXTS) - 1
    np.testing.assert_allclose(mended.logits, whole, atol=1e-6)
    assert teacher_logits(teacher, TEXTS, folder=tmp_path).num_cached == len(TEXTS)


def test_two_runs_at_once_keep_each_others_logits(make_classifier: Make, tmp_path: Path) -> None:
    outer, inner = make_classifier(), make_classifier()
    answer = outer.logits_of_rows

    def interrupted(rows: Sequence[np.ndarray], *rest: Any) -> np.ndarray:
        teacher_logits(inner, TEXTS[2:], folder=tmp_path)  # the other run starts and ends while this one computes
        return answer(rows, *rest)

    outer.logits_of_rows = interrupted  # type: ignore[method-assign]
    teacher_logits(outer, TEXTS[:3], folder=tmp_path)
    found = teacher_logits(inner, TEXTS, folder=tmp_path)
    assert found.num_cached == len(TEXTS)
    np.testing.assert_allclose(found.logits, inner.predict_logits(TEXTS), atol=1e-6)


def test_without_a_folder_the_users_cache_is_used(
    make_classifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    teacher_logits(make_classifier(), TEXTS)
    assert cache_file(tmp_path / "soft_targets").suffix == ".logits"


def test_no_texts_give_no_rows(make_classifier: Make, tmp_path: Path) -> None:
    found = teacher_logits(make_classifier(), (), folder=tmp_path)
    assert found.logits.shape == (0, 2)
    assert found.num_cached == 0


def test_a_lone_surrogate_is_refused_by_name(make_classifier: Make, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="lone surrogate"):
        teacher_logits(make_classifier(), ("dull", "du\ud800ll"), folder=tmp_path)


def test_a_cache_that_cannot_be_written_is_said(make_classifier: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        teacher_logits(make_classifier(), TEXTS, folder=tmp_path / "file" / "inside")
