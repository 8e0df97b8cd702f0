"""The `instrument` scenario: figures by hand, a real slowdown, and the cost of the harness."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.candidates import Task, bundle_candidates
from benchmarks.harness.results import read_result
from benchmarks.harness.scenario import Context
from benchmarks.harness.speed import SpeedSettings
from benchmarks.scenarios import instrument
from benchmarks.scenarios.instrument import (
    InstrumentSettings,
    _served_trial,
    _timed_trial,
    call_overhead,
    figures,
    held_back,
    table,
)
from benchmarks.serving.generator import Load
from distill.bundle import Bundle
from distill.data import Dataset
from distill.progress import SilentReporter
from export.measure import protocol
from export.measure.protocol import Job, Peer, _single, _slowed


def test_figures_by_hand() -> None:
    same = [{"low": 0.98, "high": 1.02}, {"low": 1.01, "high": 1.03}, {"low": 0.9, "high": 0.99}, {"low": 0.99, "high": 1.0}]
    slowed = [{"low": 0.93, "high": 0.97}, {"low": 0.93, "high": 1.01}, {"low": 1.01, "high": 1.05}, {"low": 0.9, "high": 0.95}]
    rows: list[dict[str, Any]] = [
        {"scenario": "single-stream", "name": "same", "trials": same},
        {"scenario": "single-stream", "name": "slowed", "trials": slowed},
        {"scenario": "offline", "name": "same", "trials": same[:2]},
        {"scenario": "offline", "name": "slowed", "trials": slowed[:1]},
        {"name": "call", "p50_ms": 1.002},
        {"name": "coverage", "num_seeds": 3, "coverage": 0.96, "width_ratio": 1.5},
        {"name": "coverage", "num_seeds": 3, "coverage": 0.94, "width_ratio": 1.6},
        {"name": "coverage", "num_seeds": 5, "coverage": 0.95, "width_ratio": 1.2},
        {"name": "coverage", "num_seeds": 5, "coverage": 0.97, "width_ratio": 1.3},
    ]
    assert figures({"rows": rows}) == {
        "trials": 4,
        "false_alarms": 2,
        "slowdowns_found": 2,  # found is found on the right side: 1.01 to 1.05 is not
        "half_width_median": pytest.approx(0.015),  # of 0.02, 0.01, 0.045, 0.005
        "trials_offline": 2,
        "false_alarms_offline": 1,
        "slowdowns_found_offline": 1,
        "call_overhead_share": pytest.approx(0.002),
        "coverage_3_seeds": 0.94,  # the worst of the mixes
        "coverage_5_seeds": 0.95,
        "width_ratio": 1.3,
    }
    assert "| offline | 2 | 1 | 5% | 1 |" in table({"rows": rows})
    assert "94.0% with 3" in table({"rows": rows})


@pytest.fixture
def task(tiny_test: Dataset, tmp_path: Path) -> Task:
    return Task(test=tiny_test, train=None, validation=None, teacher=None, work=tmp_path)


@pytest.mark.parametrize("name", ["single-stream", "offline"])
def test_a_trial_compares_a_bundle_with_itself_and_with_itself_held_back(
    name: str, tiny_student: Bundle, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    (candidate,) = bundle_candidates([f"{tiny_student.path}:int8"])
    monkeypatch.setitem(instrument.SHORT, name, SpeedSettings(rounds=3, processes=3, texts=60, window_s=0.02))
    monkeypatch.setitem(instrument.SLOWDOWN, name, 4.0)  # five times as long: seen on a busy machine, too
    found = _timed_trial(name, candidate, task, InstrumentSettings(settle_s=0.2), 0)
    assert list(found) == ["same", "slowed"]
    for arm in found.values():
        assert arm["low"] <= arm["value"] <= arm["high"]
        assert arm["value"] == pytest.approx(np.exp(np.mean(np.log(arm["by_process"]))))
        assert len(arm["by_process"]) == 3
    assert found["slowed"]["value"] < 0.6 * found["same"]["value"]  # 0.2 on an idle machine


def test_trials_that_are_finished_are_not_made_again(
    tiny_student: Bundle, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []

    def trial(name: str, *given: Any) -> dict[str, Any]:
        made.append((name, given[-1]))
        return {arm: {"value": 1.0, "low": 0.99, "high": 1.01, "by_process": [1.0]} for arm in ("same", "slowed")}

    monkeypatch.setattr(instrument, "task_of", lambda *_, **__: task)
    monkeypatch.setattr(instrument, "_timed_trial", trial)
    monkeypatch.setattr(instrument, "_served_trial", trial)
    monkeypatch.setattr(instrument, "call_overhead", lambda *_: {"p50_ms": 1.001, "samples": 3})
    settings = InstrumentSettings(bundle=f"{tiny_student.path}:int8", trials=2, trials_offline=1, trials_serving=1, simulated=3)
    context = Context(tmp_path, "instrument", SilentReporter())
    rows = instrument.run(settings, context).rows
    assert made == [("single-stream", 0), ("single-stream", 1), ("offline", 0), ("serving", 0)]
    assert [row["slowdown"] for row in rows if "trials" in row] == [0.0, 0.05, 0.0, 0.05, 0.0, 0.15]
    assert len([row for row in rows if row["name"] == "coverage"]) == 9  # three numbers of seeds, three mixes
    assert figures({"rows": rows})["trials"] == 2
    instrument.run(settings.model_copy(update={"trials": 3}), context)
    assert made[4:] == [("single-stream", 2)]


def test_servers_of_a_trial_are_warmed_up_and_loaded_in_turns_and_one_is_held_back(
    tiny_student: Bundle, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    (candidate,) = bundle_candidates([f"{tiny_student.path}:int8"])
    loads: list[tuple[float, float]] = []
    share = 0.0

    @contextmanager
    def started(_: Any, bundle: Path, __: Any) -> Iterator[Any]:
        assert bundle == tiny_student.path
        yield SimpleNamespace(port=1)

    @contextmanager
    def held_back(_: Any, held: float) -> Iterator[None]:
        nonlocal share
        share = held
        yield
        share = 0.0

    def run_load(load: Load) -> Any:
        loads.append((load.seconds, share))
        return SimpleNamespace(requests_per_second=500 / (1 + share))

    for name, stand_in in (("started", started), ("held_back", held_back), ("run_load", run_load)):
        monkeypatch.setattr(instrument, name, stand_in)
    found = _served_trial("serving", candidate, task, InstrumentSettings(turn_s=0.3), 0)
    assert (found["same"]["value"], found["slowed"]["value"]) == (1.0, pytest.approx(1 / 1.15))
    assert found["slowed"]["by_process"] == [pytest.approx(1 / 1.15)] * 4  # fresh servers in every round
    assert sorted(loads) == [(pytest.approx(0.1), 0.0)] * 12 + [(0.3, 0.0)] * 8 + [(0.3, 0.15)] * 4


def test_a_server_that_is_held_back_is_stopped_for_a_share_of_the_time() -> None:
    sent: list[signal.Signals] = []
    server = SimpleNamespace(send=sent.append)
    with held_back(server, 1.0):  # type: ignore[arg-type]
        time.sleep(0.2)
    assert set(sent) == {signal.SIGSTOP, signal.SIGCONT}
    assert sent[-1] is signal.SIGCONT  # it is not left stopped
    assert sent[::2] == [signal.SIGSTOP] * (len(sent) // 2)
    with held_back(server, 0.0):  # type: ignore[arg-type]
        count = len(sent)
    assert len(sent) == count


class Clock:
    """A clock that moves by a microsecond when it is read, and by what a call takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    def peer(self, *, seconds: float) -> Peer:
        def answer(_: str) -> np.ndarray:
            self.now += seconds
            return np.zeros(2)

        return Peer(one=answer, many=lambda texts: np.array([answer(text) for text in texts]), settings={}, source="")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(protocol, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def test_a_peer_slowed_by_a_half_takes_half_as_long_again(clock: Clock) -> None:
    slowed = _slowed(clock.peer(seconds=0.004), 0.5)
    slowed.one("a text")
    assert clock.now == pytest.approx(0.006, abs=1e-5)
    slowed.many(["a text", "another"])
    assert clock.now == pytest.approx(0.006 + 0.012, abs=2e-5)


def test_only_the_call_itself_is_timed(clock: Clock) -> None:
    found = _single(clock.peer(seconds=0.001), {"texts": ["a", "b", "c"], "warmup": 2})
    assert found["ms"] == pytest.approx([1.001] * 3)  # a call of 1 ms and one reading of the clock
    assert clock.now == pytest.approx(0.005, abs=1e-5)  # the two of the warmup, too


def test_the_recorded_overhead_of_the_harness_is_under_two_percent_of_a_call_of_one_millisecond() -> None:
    assert 0 <= read_result("instrument")["figures"]["call_overhead_share"] < 0.02


def test_the_overhead_is_that_of_a_call_of_one_millisecond(task: Task) -> None:
    found = call_overhead(task, SpeedSettings(rounds=8, texts=len(task.test), settle_s=0.2, window_s=0.02))
    assert found["samples"] == len(task.test)
    assert found["p50_ms"] >= 1.0  # how much more depends on what else the machine does


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = Job(bundle=tmp_path, folder=tmp_path, threads=1, calibration=("é\n",), max_length=8, labels=("a",), options={"x": 1})
    assert Job.from_json(job.to_json()) == job
