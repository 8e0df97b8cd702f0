"""The file of logits: found again, never trusted when damaged, shared by processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distill.errors import StorageError
from distill.teachers import answer_store
from distill.teachers.answer_store import AnswerStore

RECORD_BYTES = 16 + 3 * 4 + 8  # key, three float32 logits, checksum


def keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, size=(count, 2), dtype=np.uint64)


def logits_for(some: np.ndarray) -> np.ndarray:
    """Return logits that say which key they belong to."""
    return (some[:, :1] % 1000 + np.arange(3)).astype(np.float32)


def file_of(path: Path, count: int, seed: int = 0) -> AnswerStore:
    file = AnswerStore(path, 3)
    file.append(keys(count, seed), logits_for(keys(count, seed)))
    return file


def test_keys_are_found_in_any_order_with_their_own_logits(tmp_path: Path) -> None:
    file_of(tmp_path / "f", 100)
    asked = np.concatenate([keys(100)[::-1], keys(5, seed=1)])
    found, logits = AnswerStore(tmp_path / "f", 3).find(asked)
    assert found.tolist() == [True] * 100 + [False] * 5
    np.testing.assert_array_equal(logits[:100], logits_for(keys(100)[::-1]))
    np.testing.assert_array_equal(logits[100:], 0)
    assert (tmp_path / "f").stat().st_size == 100 * RECORD_BYTES


def test_a_key_that_shares_its_first_half_is_not_taken_for_another(tmp_path: Path) -> None:
    file = file_of(tmp_path / "f", 10)
    near = keys(10)
    near[:, 1] ^= 1
    assert not file.find(near)[0].any()


def test_what_another_appends_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_store, "_BLOCK_BYTES", 7 * RECORD_BYTES)
    file = file_of(tmp_path / "f", 30)
    assert file.find(keys(30))[0].all()
    file_of(tmp_path / "f", 50, seed=1)
    for seed, count in ((0, 30), (1, 50)):
        found, logits = file.find(keys(count, seed))
        assert found.all()
        np.testing.assert_array_equal(logits, logits_for(keys(count, seed)))


def test_of_two_records_of_a_key_the_first_is_found(tmp_path: Path) -> None:
    file = file_of(tmp_path / "f", 10)
    file.append(keys(10), logits_for(keys(10)) + 1)
    np.testing.assert_array_equal(AnswerStore(tmp_path / "f", 3).find(keys(10))[1], logits_for(keys(10)))


@pytest.mark.parametrize("cut_bytes", [1, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 3])
def test_a_record_cut_by_a_kill_is_lost_alone(tmp_path: Path, cut_bytes: int) -> None:
    file_of(tmp_path / "f", 10)
    content = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(content[:-cut_bytes])
    lost = -(-cut_bytes // RECORD_BYTES)
    file = AnswerStore(tmp_path / "f", 3)
    assert file.find(keys(10))[0].tolist() == [True] * (10 - lost) + [False] * lost
    file.append(keys(4, seed=1), logits_for(keys(4, seed=1)))  # starts at a whole record
    assert AnswerStore(tmp_path / "f", 3).find(keys(4, seed=1))[0].all()
    assert (tmp_path / "f").stat().st_size == (14 - lost) * RECORD_BYTES


@pytest.mark.parametrize("bit", range(0, RECORD_BYTES * 8, 5))
def test_a_record_with_any_flipped_bit_is_not_found_and_leaves_the_others(tmp_path: Path, bit: int) -> None:
    file_of(tmp_path / "f", 10)
    content = bytearray((tmp_path / "f").read_bytes())
    content[4 * RECORD_BYTES + bit // 8] ^= 1 << bit % 8
    (tmp_path / "f").write_bytes(content)
    found, logits = AnswerStore(tmp_path / "f", 3).find(keys(10))
    assert np.flatnonzero(~found).tolist() == [4]
    np.testing.assert_array_equal(logits[found], logits_for(keys(10))[found])


def test_a_hole_of_zeros_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(3 * RECORD_BYTES))
    assert not AnswerStore(tmp_path / "f", 3).find(np.zeros((1, 2), dtype=np.uint64))[0].any()


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    file = file_of(tmp_path / "f", 10)
    assert file.find(keys(10))[0].all()
    (tmp_path / "f").unlink()
    assert not file.find(keys(10))[0].any()


def test_processes_that_append_at_once_lose_and_spoil_nothing(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from test_answer_store import *\n"
        "seed = int(sys.argv[1])\n"
        "for piece in range(60):\n"
        f"    file_of(Path({str(tmp_path / 'f')!r}), 1 + piece % 7, seed=100 * seed + piece)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(seed)]) for seed in (1, 2)]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    file = AnswerStore(tmp_path / "f", 3)
    for seed in (1, 2):
        for piece in range(60):
            wanted = keys(1 + piece % 7, 100 * seed + piece)
            found, logits = file.find(wanted)
            assert found.all()
            np.testing.assert_array_equal(logits, logits_for(wanted))


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        file_of(tmp_path / "file" / "f", 1)
