"""The instrument's own scenario: figures by hand, a slow-down that is really there, and the cost of the harness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.candidates import Task, bundle_candidates
from benchmarks.peers.protocol import Job, Peer, _slowed
from benchmarks.self_check import call_overhead, instrument_figures, trial
from benchmarks.sessions import SpeedSettings
from distill.bundle import Bundle
from distill.data import Dataset


def test_figures_by_hand() -> None:
    same = [{"low": 0.98, "high": 1.02}, {"low": 1.01, "high": 1.03}, {"low": 0.9, "high": 0.99}, {"low": 0.99, "high": 1.0}]
    slowed = [{"low": 0.93, "high": 0.97}, {"low": 0.93, "high": 1.01}, {"low": 1.01, "high": 1.05}, {"low": 0.9, "high": 0.95}]
    rows = [{"name": "same", "trials": same}, {"name": "slowed", "trials": slowed}, {"name": "call", "p50_ms": 1.002}]
    assert instrument_figures(rows) == {
        "trials": 4,
        "false_alarms": 2,
        "slowdowns_found": 2,  # found is found on the right side: 1.01 to 1.05 is not
        "half_width_median": pytest.approx(0.015),  # of 0.02, 0.01, 0.045, 0.005
        "call_overhead_share": pytest.approx(0.002),
    }


def test_a_trial_compares_a_bundle_with_itself_and_with_itself_held_back(
    tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path
) -> None:
    (candidate,) = bundle_candidates([f"{tiny_student.path}:int8"])
    task = Task(test=tiny_test, train=None, validation=None, teacher=None, work=tmp_path)
    settings = SpeedSettings(rounds=3, processes=3, texts=60, settle_s=0.2, window_s=0.02)
    found = trial(candidate, task, seed=0, settings=settings)
    assert list(found) == ["same", "slowed"]
    for arm in found.values():
        assert arm["low"] <= arm["value"] <= arm["high"]
        assert arm["value"] == pytest.approx(np.exp(np.mean(np.log(arm["by_process"]))))
        assert len(arm["by_process"]) == 3
    assert 0.6 < found["slowed"]["value"] / found["same"]["value"] < 1.2  # 0.95, beside whatever else the tests run


def test_held_back_by_a_half_a_call_takes_half_as_long_again() -> None:
    import time

    def busy(_: str) -> np.ndarray:
        until = time.perf_counter() + 0.004
        while time.perf_counter() < until:
            pass
        return np.zeros(2)

    def least(peer: Peer) -> float:
        times = []
        for _ in range(15):
            started = time.perf_counter()
            peer.one("a text")
            times.append(time.perf_counter() - started)
        return min(times)

    peer = Peer(one=busy, many=lambda texts: np.array([busy(text) for text in texts]), settings={}, source="")
    assert least(_slowed(peer, 0.5)) / least(peer) == pytest.approx(1.5, abs=0.1)


def test_the_harness_adds_under_two_percent_to_a_call_of_one_millisecond(
    tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path
) -> None:
    (candidate,) = bundle_candidates([f"{tiny_student.path}:int8"])
    task = Task(test=tiny_test, train=None, validation=None, teacher=None, work=tmp_path)
    found = call_overhead(candidate, task)
    assert found["samples"] == len(tiny_test)
    assert 1.0 <= found["p50_ms"] < 1.02


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = Job(bundle=tmp_path, folder=tmp_path, threads=1, calibration=("é\n",), max_length=8, labels=("a",), options={"x": 1})
    assert Job.from_json(job.to_json()) == job
