"""What a student learns from: three sources in their order, weighed, and streamed in flat memory."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launched import run_program

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.errors import SettingsError
from distill.losses.term import UNLABELLED
from distill.settings import DistillSettings, TransferSetSettings
from distill.training import sealing
from distill.training.distillation import fit_student
from distill.training.lesson import TransferSet, _weights
from distill.training.loop import Examples, Lesson
from distill.training.processes import SharedFiles, open_accelerator


def dataset(*texts: str) -> Dataset:
    return Dataset(texts, np.arange(len(texts)) % 2, ("a", "b"), "x")


@pytest.fixture
def transfer(tmp_path: Path) -> TransferSet:
    """Return two labelled, two unlabelled and one augmented text."""
    offered = iter(["new", "ONE", "held  out", "new", "newer"])
    with open_accelerator("cpu") as accelerator:
        files = SharedFiles(tmp_path, accelerator)
        gathered = TransferSet.gather(dataset("one", "two"), offered, held_out=[dataset("Held out")], files=files)
    return replace(gathered, augmented=["new newer"])


def test_the_sources_stand_in_their_order_without_repeats_and_held_out_texts(transfer: TransferSet) -> None:
    assert list(transfer.texts) == ["one", "two", "new", "newer", "new newer"]
    assert len(transfer) == 5


def test_a_sample_takes_labelled_texts_first_and_a_smaller_one_is_part_of_it(tmp_path: Path) -> None:
    labelled, offered = dataset(*(f"labelled {number}" for number in range(8))), [f"new {number}" for number in range(20)]

    def sample(count: int) -> TransferSet:
        with open_accelerator("cpu") as accelerator:
            files = SharedFiles(tmp_path, accelerator)
            return TransferSet.gather(labelled, offered, held_out=[], max_texts=count, files=files)

    assert [(len(sample(count).labelled), len(sample(count).unlabeled)) for count in (4, 13, 18, 100)] == [
        (4, 0),
        (8, 5),
        (8, 10),
        (8, 20),
    ]
    assert set(sample(4).labelled.texts) < set(sample(6).labelled.texts)
    assert set(sample(13).unlabeled) < set(sample(18).unlabeled) < set(offered)


def test_each_source_counts_as_its_setting_says(transfer: TransferSet) -> None:
    weights = transfer.weights(TransferSetSettings(labelled_weight=2, unlabeled_weight=0.5, augmented_weight=0.25))
    assert weights is not None
    assert weights.tolist() == [2, 2, 0.5, 0.5, 0.25]
    assert transfer.weights(TransferSetSettings()) is None


def test_answers_are_weighed_and_texts_with_a_hard_label_are_not(transfer: TransferSet) -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], dtype=np.float32))

    def weights(**settings: Any) -> list[float] | None:
        found = _weights(transfer, logits, DistillSettings(**settings))
        return None if found is None else found.tolist()

    # Gaps of 0.8, 0.2, 0.6, 0.2 and 0.4: their mean is 0.44; that of the last three, which have no label, is 0.4.
    gaps = [0.8 / 0.44, 0.2 / 0.44, 0.6 / 0.44, 0.2 / 0.44, 0.4 / 0.44]
    assert weights(soft_weight=1.0, unsure="weigh") == pytest.approx(gaps, rel=1e-4)
    assert weights(soft_weight=0.5, unsure="weigh") == pytest.approx([1, 1, 1.5, 0.5, 1], rel=1e-4)
    assert weights(soft_weight=0.5, unsure="weigh", unlabeled_weight=2) == pytest.approx([1, 1, 3, 1, 1], rel=1e-4)
    assert weights(soft_weight=1.0) is None


def test_a_student_that_learns_nothing_from_the_teacher_cannot_weigh_its_answers(
    tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    settings = DistillSettings(num_layers=1, soft_weight=0.0, unsure="weigh")
    with pytest.raises(SettingsError, match=r"with soft_weight 0 .* --unsure cannot be used"):
        fit_student(
            tiny_teacher, train=tiny_splits.train, validation=tiny_splits.validation, out=tmp_path / "s", settings=settings
        )


def test_the_loop_is_given_ids_labels_logits_and_weights_of_every_text(
    tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Examples] = []
    train = sealing.run_training

    def noting(student: Any, lesson: Lesson, **rest: Any) -> Any:
        seen.append(lesson.examples)
        rows = [student.tokenizer.encode([text])[0].tolist() for text in (*few.texts, "a new film")]
        assert [row.tolist() for row in lesson.examples.rows[:17]] == rows
        return train(student, lesson, **rest)

    monkeypatch.setattr(sealing, "run_training", noting)
    few = tiny_splits.train.take(range(16))
    settings = DistillSettings(epochs=1, num_layers=1, augment=1, augmented_weight=0.5)
    out = tmp_path / "student"
    unlabeled = (text for text in ["a new film", few.texts[0].upper()])
    fit_student(tiny_teacher, train=few, validation=tiny_splits.validation, unlabeled=unlabeled, out=out, settings=settings)
    (examples,) = seen
    assert len(examples.rows) == 16 + 1 + 17
    assert examples.label_ids.tolist() == [*few.label_ids.tolist(), *[UNLABELLED] * 18]
    assert examples.weights is not None
    assert examples.weights.tolist() == [1.0] * 17 + [0.5] * 17
    assert examples.teacher_logits is not None
    assert examples.teacher_logits.shape == (34, 2)
    assert not any(file.name.startswith(".transfer") for file in out.iterdir())


PROGRAM = """
import sys, threading
from pathlib import Path

from launched import exit_codes
from test_lesson import *
from tiny_task import tiny_texts

TEACHER, OUT, COUNT, PROCESSES = *sys.argv[1:3], *map(int, sys.argv[3:])


def anonymous_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def texts(count):
    for number in range(count):
        yield f"film {number} and the end was a scene with music"


def work(rank):
    peak, done = 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous_bytes())

    labelled = dataset(*(text for text, _ in tiny_texts(40, seed=9)))
    labelled = Dataset(labelled.texts, labelled.label_ids, ("negative", "positive"), "x")
    watcher = threading.Thread(target=watch)
    watcher.start()
    # A small batch: the activations of a step are then small beside what a text would take.
    settings = DistillSettings(
        epochs=1, num_layers=1, batch_size=64, mixed_precision="no", seed=COUNT + PROCESSES, device="cpu"
    )
    try:
        fit_student(
            Bundle.open(Path(TEACHER)),
            train=labelled,
            validation=labelled,
            unlabeled=texts(COUNT),
            out=OUT,
            settings=settings,
        )
    finally:
        done.set()
        watcher.join()
    print(peak, flush=True)


sys.exit(sum(exit_codes(work, processes=PROCESSES)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.skipif(sys.platform != "linux", reason="reads the process' memory where Linux tells it")
def test_a_million_unlabelled_texts_would_not_grow_the_run(
    tiny_teacher: Bundle, tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Freed blocks go back to the system at once: what the allocator keeps differs by tens of MB from run to run.
    returning = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    for name, value in {**returning, "POTSTILL_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)

    def peak_bytes(count: int) -> int:
        """Return the memory of the process that took most."""
        done = run_program(PROGRAM, tiny_teacher.path, tmp_path / "student", count, processes)
        assert done.returncode == 0, done.stderr
        peaks = [int(line) for line in done.stdout.split()]
        assert len(peaks) == processes
        return max(peaks)

    few, many = 20_000, 80_000  # both more than a chunk
    grown = (peak_bytes(many) - peak_bytes(few)) / (many - few)
    # Digests, the cache's index and an epoch's order are some 60 bytes; a text in a list would be 100 more, its ids another
    # 200.
    assert grown * 1e6 < 120e6
