"""Cold start and memory of fresh processes, with the quality of their answers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.candidates import Task, bundle_candidates, command_candidates
from benchmarks.harness.fresh import fresh_figures, run_fresh
from benchmarks.harness.sessions import SpeedSettings
from distill.bundle import Bundle
from distill.data import Dataset
from distill.evaluation.metrics import macro_f1
from distill.progress import SilentReporter
from export.runtime.sessions import OnnxClassifier

HEAVY_BYTES = 100_000_000


@pytest.fixture
def task(tiny_test: Dataset, tmp_path: Path) -> Task:
    return Task(test=tiny_test, train=None, validation=None, teacher=None, work=tmp_path / "work")


def test_memory_counts_the_processes_that_a_command_starts(tiny_student: Bundle, tiny_test: Dataset, task: Task) -> None:
    label = tiny_test.labels[0]
    program = f"import sys\nheld = b'x' * {HEAVY_BYTES}\nfor line in sys.stdin: print({label!r}, flush=True)"
    heavy = f"heavy={shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    light = heavy.replace(f"* {HEAVY_BYTES}", "* 1").replace("heavy=", "light=")
    candidates = [
        *bundle_candidates([f"{tiny_student.path}:int8"]),
        *command_candidates([heavy, light], student=tiny_student.path),
    ]
    rows, _ = run_fresh("memory", candidates, task, SpeedSettings(timeout_s=60), reporter=SilentReporter())
    found = {row["name"]: row for row in rows}
    logits = OnnxClassifier.open(tiny_student, precision="int8", threads=1).predict_logits(tiny_test.texts)
    assert found["student int8"]["macro_f1"] == pytest.approx(macro_f1(tiny_test.label_ids, logits))
    assert found["student int8"]["peak_rss_bytes"] >= found["student int8"]["ready_rss_bytes"] > 20_000_000
    more = found["heavy"]["peak_rss_bytes"] - found["light"]["peak_rss_bytes"]
    assert more == pytest.approx(HEAVY_BYTES, rel=0.1)
    assert fresh_figures("memory", rows)["heavy_peak_rss_bytes"] == found["heavy"]["peak_rss_bytes"]


def test_a_cold_start_holds_what_loading_takes(tiny_student: Bundle, tiny_test: Dataset, task: Task) -> None:
    program = "import sys, time\ntime.sleep({})\nfor line in sys.stdin: print('{}', flush=True)"
    commands = [
        f"{name}={shlex.quote(sys.executable)} -c {shlex.quote(program.format(seconds, tiny_test.labels[0]))}"
        for name, seconds in (("quick", 0), ("slow", 0.5))
    ]
    candidates = command_candidates(commands, student=tiny_student.path)
    rows, _ = run_fresh("cold-start", candidates, task, SpeedSettings(), reporter=SilentReporter())
    quick, slow = (row["cold_start_s_rounds"] for row in rows)
    assert len(quick) == len(slow) == 8
    assert np.median(slow) - np.median(quick) == pytest.approx(0.5, abs=0.25)
    assert all("macro_f1" in row for row in rows)
