"""Quality of candidates whose every answer is known, and the speed of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.errors import SettingsError
from export.measure.candidates import Candidate, bundle_candidate, floor_candidates
from export.measure.rows import measure_quality, measure_speed
from export.settings import BenchSettings

LABELS = ("bad", "good")
TEST = Dataset(tuple("abcd"), np.array([0, 0, 1, 1]), LABELS, "four texts")
QUICK = BenchSettings(rounds=3, texts_per_round=4, settle_s=0.1, window_s=0.02, throughput_texts=8, throughput_rounds=3)


class Fixed:
    """Gives the labels it was told to, and remembers how it was asked."""

    problem_type = "single_label_classification"

    def __init__(self, answers: str, labels: tuple[str, ...] = LABELS) -> None:
        self.labels = labels
        self.asked: list[list[str]] = []
        self._answers = dict(zip("abcd", map(int, answers), strict=True))

    def predict_logits(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        return np.eye(2, dtype=np.float32)[[self._answers[text] for text in texts]] * 4

    def candidate(self, name: str, precision: str = "fp32") -> Candidate:
        return Candidate(name, precision, "none", lambda _: self, None, 7)  # type: ignore[arg-type, return-value]


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


def test_two_candidates_of_one_name_and_precision_are_refused() -> None:
    twice = [Fixed("0011").candidate("student"), Fixed("0011").candidate("student")]
    with pytest.raises(SettingsError, match="the same name and precision"):
        measure_quality(twice, TEST, teacher=None)


def test_a_teacher_that_is_not_measured_is_refused() -> None:
    with pytest.raises(SettingsError, match="the teacher 'teacher fp32' is not among"):
        measure_speed([Fixed("0011").candidate("student")], TEST, teacher=Fixed("0011").candidate("teacher"), settings=QUICK)


def test_speed_has_intervals_over_processes_and_every_sample(
    tiny_student: Bundle, tiny_splits: Splits, tiny_test: Dataset, tmp_path: Path
) -> None:
    student = bundle_candidate(tiny_student, name="student", form="int8")
    tfidf, _ = floor_candidates(tiny_splits.train)
    speeds = measure_speed([student, tfidf], tiny_test, teacher=student, settings=QUICK)
    row = speeds["tfidf fp32"]
    assert [len(samples) for samples in row["latency_rounds_ms"]] == [4, 4, 4]
    assert row["process_of_round"] == [0, 1, 2]
    medians = [np.median(samples) for samples in row["latency_rounds_ms"]]
    assert row["p50_ms"] == pytest.approx(np.exp(np.mean(np.log(medians))), rel=1e-2)
    assert row["p50_ms_interval"][0] <= row["p50_ms"] <= row["p50_ms_interval"][1]
    assert row["p90_ms"] is row["p99_ms"] is row["p99_ms_interval"] is None  # 12 samples are too few to speak of a tail
    low, high = row["p50_ratio_teacher_interval"]
    assert low <= row["p50_ratio_teacher"] <= high
    assert row["cold_start_s"] is row["peak_rss_bytes"] is None  # no bundle that a process could open
    ours = speeds["student int8"]
    assert ours["p50_ratio_teacher"] == 1
    assert ours["texts_per_second"] == pytest.approx(np.exp(np.mean(np.log(ours["texts_per_second_rounds"]))))
    assert ours["cold_start_s"] > 0.05
    assert ours["peak_rss_bytes"] > 20e6
