"""Two processes ask one teacher: each for its share, nothing twice, nothing lost when one of them is killed or fails.

And they share files: what the first has written is what both read.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launched import run_program

from distill.bundle import Bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked off one process that has torch loaded")

PROGRAM = '''
import hashlib, json, os, signal, sys
from pathlib import Path

import numpy as np
from launched import exit_codes
from tiny_task import tiny_texts

from distill.bundle import Bundle
from distill.errors import PotstillError
from distill.cli.bars import SilentReporter
from distill.models.loading import load_bundle
from distill.training.processes import logits_together, open_accelerator, shared_files

TEACHER, FOLDER = map(Path, sys.argv[1:])
TEXTS = [text for text, _ in tiny_texts(3_000, seed=5)]
TEXTS += TEXTS[:100]  # repeats are asked once too


def only_for_the_first(rank):
    assert rank == 0
    yield from TEXTS


def shared(files, tokenizer, rank):
    texts = files.texts("texts", only_for_the_first(rank))
    rows = files.rows("rows", texts, tokenizer)
    numbers = files.array("numbers", lambda: np.arange(7) * len(list(only_for_the_first(rank))))
    return hashlib.sha256(repr([list(texts), [row.tolist() for row in rows], numbers.tolist()]).encode()).hexdigest()


def asked(name, *, processes, cache, at_batch=lambda rank, batch: None):
    """Ask the teacher; lay down what each process got, how many texts it asked for, and what ended it."""

    def work(rank):
        os.environ["POTSTILL_CACHE"] = str(FOLDER / (cache if isinstance(cache, str) else cache[rank]))
        teacher, rows = load_bundle(Bundle.open(TEACHER)), []
        answer = teacher.steady_logits

        def noting(asked_rows, *rest):
            rows.append(len(asked_rows))
            for batch, (places, logits) in enumerate(answer(asked_rows, *rest)):
                instead = at_batch(rank, batch)
                yield places, logits if instead is None else instead

        teacher.steady_logits = noting
        try:
            with open_accelerator("cpu") as accelerator, shared_files(FOLDER / "transfer", accelerator) as files:
                soft = logits_together(teacher, TEXTS, files=files, name="logits", reporter=SilentReporter())
                digest = shared(files, teacher.tokenizer, rank)
        except PotstillError as exc:
            (FOLDER / f"{name}-{rank}.json").write_text(json.dumps(f"{type(exc).__name__}: {exc}"))
            sys.exit(exc.exit_code)
        np.save(FOLDER / f"{name}-{rank}.npy", soft.logits)
        said = {"asked": sum(rows), "num_cached": soft.num_cached, "digest": digest}
        (FOLDER / f"{name}-{rank}.json").write_text(json.dumps(said))

    (FOLDER / f"{name}.json").write_text(json.dumps(exit_codes(work, processes=processes)))


def killed(rank, batch):
    if (rank, batch) == (1, 20):
        os.kill(os.getpid(), signal.SIGKILL)


asked("alone", processes=1, cache="alone")
asked("two", processes=2, cache="two")
asked("killed", processes=2, cache="killed", at_batch=killed)
asked("again", processes=2, cache="killed")
asked("bad", processes=2, cache="bad", at_batch=lambda rank, batch: np.full((3, 2), np.nan) if rank else None)
asked("apart", processes=2, cache=("apart", "elsewhere"))
'''
NUM_TEXTS, NUM_REPEATED = 3_000, 100
RECORD_BYTES = 16 + 2 * 4 + 8  # key, two float32 logits, checksum


@pytest.fixture(scope="module")
def folder(tiny_teacher: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where each process left what it got."""
    folder = tmp_path_factory.mktemp("together")
    done = run_program(PROGRAM, tiny_teacher.path, folder)
    assert done.returncode == 0, done.stderr
    return folder


def said(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def records(folder: Path, cache: str) -> np.ndarray:
    (file,) = (folder / cache / "soft_targets").glob("*.logits")
    return np.frombuffer(file.read_bytes(), dtype=f"V{RECORD_BYTES}")


def test_each_process_asks_for_its_share_and_both_get_all_to_the_last_bit(folder: Path) -> None:
    assert said(folder, "alone-0")["asked"] == NUM_TEXTS
    shares = [said(folder, f"two-{rank}") for rank in range(2)]
    assert sum(share["asked"] for share in shares) == NUM_TEXTS
    assert all(1_300 < share["asked"] < 1_700 and share["num_cached"] == 0 for share in shares)  # 1,500, seven deviations
    alone = np.load(folder / "alone-0.npy")
    for name in ("two-0", "two-1", "again-0", "again-1"):
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), alone, err_msg=name)


@pytest.mark.parametrize("cache", ["alone", "two", "killed"])
def test_the_cache_ends_with_each_text_once_and_the_same_records(cache: str, folder: Path) -> None:
    kept = records(folder, cache)
    assert len(kept) == NUM_TEXTS
    assert set(kept.tolist()) == set(records(folder, "alone").tolist())  # in whichever order


def test_what_a_killed_process_and_its_peer_had_finished_is_not_asked_again(folder: Path) -> None:
    assert said(folder, "killed") == [3, -signal.SIGKILL]
    assert said(folder, "killed-0").startswith("ClusterError: ")
    again = [said(folder, f"again-{rank}") for rank in range(2)]
    num_cached = again[0]["num_cached"]
    assert num_cached > NUM_TEXTS / 2  # the share of the one that lived, and what the other had written
    assert num_cached - NUM_REPEATED <= NUM_TEXTS - sum(share["asked"] for share in again) <= num_cached


def test_what_the_first_process_writes_is_what_all_read(folder: Path) -> None:
    digests = [said(folder, name)["digest"] for name in ("alone-0", "two-0", "two-1")]
    assert digests == digests[:1] * 3
    assert not (folder / "transfer").exists()


def test_an_error_of_one_ends_the_other_too(folder: Path) -> None:
    assert said(folder, "bad") == [3, 4]
    assert re.match(r"TeacherError: .*shape \(3, 2\)", said(folder, "bad-1"))
    assert said(folder, "bad-0").startswith("ClusterError: another process of this run has ended")


def test_a_cache_on_each_machines_own_disk_is_refused_before_the_teacher_is_asked(folder: Path) -> None:
    for rank in range(2):
        assert said(folder, f"apart-{rank}").startswith("ClusterError: process 1 does not see what process 0 writes to ")
    assert not any((folder / "apart" / "soft_targets").iterdir())
