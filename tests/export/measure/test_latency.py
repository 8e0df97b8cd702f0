"""Measuring: turns, percentiles and ratios against a clock that the test moves; processes against the real one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from distill.bundle import Bundle
from distill.classifier import TextInput
from distill.data import Dataset
from distill.errors import PotstillError, SettingsError
from distill.labels import Logits, ProblemType
from export.measure import latency as measure
from export.measure.latency import (
    Latency,
    measure_latency,
    measure_process,
    measure_throughput,
    speed_figures,
)
from export.settings import BenchSettings

NO_WARM_UP = {"warmup_s": 0.0}


class Clock:
    """Stands still unless someone moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A classifier that takes as many milliseconds as its texts say, times a factor, and notes who was asked what."""

    labels = ("a", "b")
    problem_type: ProblemType = "single_label_classification"

    def __init__(self, name: str, clock: Clock, asked: list[tuple[str, tuple[str, ...]]], *, factor: float = 1.0) -> None:
        self._name, self._clock, self._asked, self._factor = name, clock, asked, factor

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        self._asked.append((self._name, tuple(map(str, texts))))
        self._clock.now += sum(float(str(text)) for text in texts) * self._factor / 1000
        return np.zeros((len(texts), 2), dtype=np.float32)


def latency(*rounds: Sequence[float]) -> Latency:
    return Latency(tuple(tuple(samples) for samples in rounds))


def test_classifiers_take_turns_and_each_round_has_the_next_texts() -> None:
    clock = Clock()
    asked: list[tuple[str, tuple[str, ...]]] = []
    classifiers = {name: Timed(name, clock, asked) for name in ("slow", "fast")}
    settings = BenchSettings(rounds=3, texts_per_round=2, **NO_WARM_UP)
    measure_latency(classifiers, ["1", "2", "3", "4", "5"], settings, clock=clock)
    turns = [("slow", "1"), ("slow", "2"), ("fast", "1"), ("fast", "2")]
    turns += [("slow", "3"), ("slow", "4"), ("fast", "3"), ("fast", "4")]
    turns += [("slow", "5"), ("slow", "1"), ("fast", "5"), ("fast", "1")]  # the texts begin again
    assert asked == [(name, (text,)) for name, text in turns]


def test_times_are_milliseconds_of_single_texts_by_the_given_clock() -> None:
    clock = Clock()
    classifiers = {"slow": Timed("slow", clock, [], factor=10), "fast": Timed("fast", clock, [])}
    settings = BenchSettings(rounds=2, texts_per_round=3, **NO_WARM_UP)
    found = measure_latency(classifiers, ["1", "2", "6", "4", "3", "8"], settings, clock=clock)
    assert found["fast"].rounds_ms[0] == pytest.approx((1, 2, 6))
    assert found["fast"].rounds_ms[1] == pytest.approx((4, 3, 8))
    assert found["fast"].round_medians_ms == pytest.approx([2, 4])
    assert found["fast"].p50_ms == pytest.approx(3)  # not 3.5, the median of all six
    assert found["slow"].p50_ms == pytest.approx(30)


def test_warming_up_is_not_measured_and_is_shorter_after_the_first_round() -> None:
    clock = Clock()
    asked: list[tuple[str, tuple[str, ...]]] = []
    settings = BenchSettings(rounds=2, texts_per_round=1, warmup_s=0.1)
    found = measure_latency({"one": Timed("one", clock, asked)}, ["10"], settings, clock=clock)
    assert found["one"].rounds_ms == (pytest.approx((10,)), pytest.approx((10,)))
    # 100 ms of 10 ms each and the measured one; then 10 ms and the measured one (and one for a clock's rounding).
    assert 13 <= len(asked) <= 14


class SecondSession(Timed):
    """Takes a second more for its first call of several texts, as a runtime does that loads a session for them."""

    is_loaded = False

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        if len(texts) > 1 and not self.is_loaded:
            self._clock.now += 1
            self.is_loaded = True
        return super().predict_logits(texts)


def test_what_only_batches_load_is_loaded_before_the_first_timed_batch() -> None:
    clock = Clock()
    settings = BenchSettings(batch_size=2, throughput_texts=4, throughput_rounds=3, warmup_s=0.1)
    rates = measure_throughput({"one": SecondSession("one", clock, [])}, ["10"], settings, clock=clock)
    assert rates["one"] == pytest.approx((100, 100, 100))  # 10 ms a text


def test_a_first_warm_up_goes_on_until_calls_are_no_longer_faster() -> None:
    clock = Clock()
    taken = iter([80.0, 60.0, 40.0, 20.0, 10.0, 10.0])

    class Warming(Timed):
        def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
            self._factor = next(taken, 10.0)
            return super().predict_logits(texts)

    settings = BenchSettings(rounds=2, texts_per_round=1, warmup_s=0.001)
    found = measure_latency({"one": Warming("one", clock, [])}, ["1"], settings, clock=clock)
    assert found["one"].rounds_ms == (pytest.approx((10,)), pytest.approx((10,)))


def test_measuring_with_no_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="no text to measure with"):
        measure_latency({}, [], BenchSettings())


def test_the_median_is_that_of_the_rounds_medians() -> None:
    assert latency([1, 1, 9], [2, 2, 2], [3, 3, 3, 3, 3]).p50_ms == 2


@pytest.mark.parametrize(("samples", "given"), [(63, False), (64, True)])
def test_a_90th_percentile_needs_64_samples(samples: int, given: bool) -> None:
    found = latency(np.arange(samples, dtype=float)).percentile_ms(90)
    assert found == (pytest.approx(0.9 * 63) if given else None)


@pytest.mark.parametrize(("samples", "given"), [(661, False), (662, True)])
def test_a_99th_percentile_needs_662_samples(samples: int, given: bool) -> None:
    half = samples // 2
    found = latency(np.arange(half, dtype=float), np.arange(half, samples, dtype=float)).percentile_ms(99)
    assert found == (pytest.approx(0.99 * 661) if given else None)


def test_the_spread_is_the_range_of_the_medians_over_their_median() -> None:
    assert latency([9, 9], [10, 10], [14, 14]).spread == pytest.approx(0.5)
    assert speed_figures(latency([9], [10], [14]), [1.0])["noisy"] is True
    assert speed_figures(latency([10], [10], [12]), [1.0])["noisy"] is False


def test_speed_figures_have_a_unit_in_their_name_and_are_none_if_not_measured() -> None:
    figures = speed_figures(latency([2.0] * 70), [100.0, 300.0, 200.0])
    assert figures == {
        "p50_ms": 2.0,
        "p90_ms": 2.0,
        "p99_ms": None,
        "latency_spread": 0.0,
        "noisy": False,
        "texts_per_second": 200.0,
        "p50_ratio_teacher": None,
        "p50_ratio_teacher_range": None,
        "cold_start_s": None,
        "peak_rss_bytes": None,
        "latency_rounds_ms": [[2.0] * 70],
        "texts_per_second_rounds": [100.0, 300.0, 200.0],
    }


def test_speed_figures_include_those_of_the_process() -> None:
    process = measure.ProcessFigures(cold_start_s=0.5, peak_rss_bytes=10**8)
    figures = speed_figures(latency([1]), [1.0], process=process)
    assert (figures["cold_start_s"], figures["peak_rss_bytes"]) == (0.5, 10**8)


def test_a_ratio_compares_medians_of_the_same_round() -> None:
    # The machine was twice as slow in the second round, for both: the ratio holds, the times do not.
    slow, fast = latency([8, 8, 80], [16, 16, 16], [10, 10, 10]), latency([1, 1, 1], [2, 2, 2], [1, 1, 7])
    figures = speed_figures(fast, [1.0], teacher=slow)
    assert (figures["p50_ratio_teacher"], figures["p50_ratio_teacher_range"]) == (8, [8, 10])
    with pytest.raises(ValueError, match="zip"):
        speed_figures(latency([1]), [1.0], teacher=slow)


def test_throughput_is_texts_over_the_seconds_of_whole_batches() -> None:
    clock = Clock()
    asked: list[tuple[str, tuple[str, ...]]] = []
    classifiers = {"one": Timed("one", clock, asked), "other": Timed("other", clock, asked, factor=4)}
    settings = BenchSettings(batch_size=2, throughput_texts=5, throughput_rounds=2, **NO_WARM_UP)
    rates = measure_throughput(classifiers, ["10", "20", "30", "20", "20"], settings, clock=clock)
    assert rates["one"] == pytest.approx((50, 50))  # 5 texts in 100 ms
    assert rates["other"] == pytest.approx((12.5, 12.5))
    batches = [("10", "20"), ("30", "20"), ("20",)]
    assert asked == [(name, batch) for _ in range(2) for name in ("one", "other") for batch in batches]


def test_a_fresh_process_says_what_it_takes(tiny_student: Bundle, tiny_test: Dataset) -> None:
    texts = (*tiny_test.texts[:20], "two\nlines", "naïve ünïcode ☕")
    int8 = measure_process(tiny_student.path, "int8", texts, repeats=1)
    pytorch = measure_process(tiny_student.path, "pytorch", texts, repeats=1)
    assert 0.05 < int8.cold_start_s < pytorch.cold_start_s < 120
    # numpy and onnxruntime take tens of megabytes, torch and transformers hundreds.
    assert 20e6 < int8.peak_rss_bytes < pytorch.peak_rss_bytes < 4e9


def test_a_process_with_one_text_says_the_same(tiny_student: Bundle) -> None:
    assert measure_process(tiny_student.path, "fp32", ["dull"], repeats=1).peak_rss_bytes > 20e6


def test_figures_are_medians_of_the_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = iter([measure.ProcessFigures(9.0, 100), measure.ProcessFigures(1.0, 300), measure.ProcessFigures(2.0, 200)])
    monkeypatch.setattr(measure, "_probe", lambda *arguments: next(starts))
    assert measure_process(Path(), "int8", ["dull"]) == measure.ProcessFigures(2.0, 200)


def test_a_process_that_dies_is_said_with_its_reason(tiny_student: Bundle, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_student.path, tmp_path / "broken"))
    (broken / "model_int8.onnx").write_bytes(b"short")
    with pytest.raises(PotstillError, match=r"(?s)a process that answers with .*broken died.*model_int8\.onnx has 5 bytes"):
        measure_process(broken, "int8", ["dull"], repeats=1)


def test_a_process_that_takes_too_long_is_ended(tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PROBE_TIMEOUT_S", 0.05)
    with pytest.raises(PotstillError, match=r"took more than 0\.05 s"):
        measure_process(tiny_student.path, "pytorch", ["dull"], repeats=1)
