"""Quality and speed of candidates, from classifiers whose every answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from distill.data import Dataset
from distill.errors import SettingsError
from export.measure.candidates import Candidate
from export.measure.rows import measure_quality, measure_speed
from export.settings import BenchSettings

LABELS = ("bad", "good")
TEST = Dataset(tuple("abcd"), np.array([0, 0, 1, 1]), LABELS, "four texts")
QUICK = BenchSettings(rounds=2, texts_per_round=4, warmup_s=0, throughput_texts=4, throughput_rounds=2, batch_size=2)


class Fixed:
    """Gives the labels it was told to, and remembers how it was asked."""

    problem_type = "single_label_classification"

    def __init__(self, answers: str, labels: tuple[str, ...] = LABELS) -> None:
        self.labels = labels
        self.asked: list[list[str]] = []
        self.threads: list[int | None] = []
        self._answers = dict(zip("abcd", map(int, answers), strict=True))

    def predict_logits(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        return np.eye(2, dtype=np.float32)[[self._answers[text] for text in texts]] * 4

    def candidate(self, name: str, precision: str = "fp32") -> Candidate:
        def open_with(threads: int | None) -> Fixed:
            self.threads.append(threads)
            return self

        return Candidate(name, precision, "none", open_with, None, 7)  # type: ignore[arg-type]


def test_quality_is_against_labels_and_agreement_against_the_teacher() -> None:
    teacher, student = Fixed("0111").candidate("teacher"), Fixed("0101").candidate("student", "int8")
    found = measure_quality([teacher, student], TEST, teacher=teacher)
    # teacher: bad P 1/1 R 1/2 F 2/3, good P 2/3 R 2/2 F 4/5; student: each label P 1/2 R 1/2 F 1/2
    assert found["teacher fp32"]["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["student int8"]["macro_f1"] == pytest.approx(0.5)
    assert found["student int8"]["agreement"] == 0.75
    assert [row["confusion"] for row in found.values()] == [[[1, 1], [0, 2]], [[1, 1], [1, 1]]]
    assert found["student int8"]["retention"] == pytest.approx(0.5 / ((2 / 3 + 4 / 5) / 2))
    assert found["teacher fp32"]["agreement"] == found["teacher fp32"]["retention"] == 1


def test_quality_asks_one_text_at_a_time_as_a_server_is() -> None:
    classifier = Fixed("0011")
    measure_quality([classifier.candidate("student")], TEST, teacher=None)
    assert classifier.asked == [["a"], ["b"], ["c"], ["d"]]


def test_without_a_teacher_nothing_is_said_of_it() -> None:
    student = Fixed("0011").candidate("student")
    (row,) = measure_quality([student], TEST, teacher=None).values()
    assert row["agreement"] is row["retention"] is None
    assert row["macro_f1"] == row["accuracy"] == 1
    assert row["per_class"]["bad"] == {"precision": 1, "recall": 1, "f1": 1, "support": 2}
    assert "p50_ms" not in row


def test_labels_in_another_order_are_refused() -> None:
    turned = Fixed("0011", labels=("good", "bad")).candidate("student")
    with pytest.raises(SettingsError, match=r"student fp32 .*\['good', 'bad'\].*test texts.*\['bad', 'good'\]"):
        measure_quality([turned], TEST, teacher=None)
    with pytest.raises(SettingsError, match="student fp32"):
        measure_speed([turned], TEST, teacher=None, settings=QUICK)


def test_two_candidates_of_one_name_and_precision_are_refused() -> None:
    twice = [Fixed("0011").candidate("student"), Fixed("0011").candidate("student")]
    with pytest.raises(SettingsError, match="the same name and precision"):
        measure_quality(twice, TEST, teacher=None)


def test_a_teacher_that_is_not_measured_is_refused() -> None:
    with pytest.raises(SettingsError, match="the teacher 'teacher fp32' is not among"):
        measure_speed([Fixed("0011").candidate("student")], TEST, teacher=Fixed("0011").candidate("teacher"), settings=QUICK)


def test_latency_is_of_single_texts_on_the_threads_asked_for_and_rate_of_batches_on_all() -> None:
    one, other = Fixed("0011"), Fixed("0011")
    candidates = [one.candidate("teacher"), other.candidate("student")]
    speeds = measure_speed(candidates, TEST, teacher=candidates[0], settings=QUICK)
    assert one.threads == other.threads == [1, None]
    sizes = [len(texts) for texts in other.asked]
    assert set(sizes) == {1, 2}
    assert sizes == sorted(sizes)  # all of the latency first
    assert sizes.count(1) >= 8
    row = speeds["student fp32"]
    assert [len(samples) for samples in row["latency_rounds_ms"]] == [4, 4]
    assert row["p50_ms"] == pytest.approx(np.median([np.median(samples) for samples in row["latency_rounds_ms"]]), abs=1e-3)
    assert row["p90_ms"] is row["p99_ms"] is None  # 8 samples are too few to speak of a tail
    assert row["texts_per_second"] == np.median(row["texts_per_second_rounds"])
    low, high = row["p50_ratio_teacher_range"]
    assert low <= row["p50_ratio_teacher"] <= high
    assert row["cold_start_s"] is row["peak_rss_bytes"] is None  # no bundle that a process could open
