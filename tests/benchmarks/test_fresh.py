"""Cold start and memory of fresh processes, with the quality of their answers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_task import tiny_texts, write_csv

from benchmarks.harness.fresh import run_fresh
from benchmarks.harness.scenario import Context
from benchmarks.harness.speed import SpeedSettings, figures_named
from benchmarks.scenarios import cold_start, memory
from distill.bundle import Bundle
from distill.data import Dataset
from distill.evaluation.metrics import macro_f1
from distill.progress import SilentReporter
from export.runtime.sessions import OnnxClassifier

HEAVY_BYTES = 100_000_000


@pytest.fixture
def measuring_csv(tmp_path: Path) -> str:
    return str(write_csv(tmp_path / "test.csv", tiny_texts(200, seed=1)))


def context(tmp_path: Path, name: str) -> Context:
    return Context(tmp_path / "work", name, SilentReporter())


def test_memory_counts_the_processes_that_a_command_starts(
    tiny_student: Bundle, tiny_test: Dataset, measuring_csv: str, tmp_path: Path
) -> None:
    label = tiny_test.labels[0]
    program = f"import sys\nheld = b'x' * {HEAVY_BYTES}\nfor line in sys.stdin: print({label!r}, flush=True)"
    heavy = f"heavy={shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    light = heavy.replace(f"* {HEAVY_BYTES}", "* 1").replace("heavy=", "light=")
    settings = SpeedSettings(bundles=(f"{tiny_student.path}:int8",), external=(heavy, light), test=measuring_csv, timeout_s=60)
    outcome = run_fresh(settings, context(tmp_path, "memory"), rounds=1, threads=None, part_of=memory.part_of)
    found = {row["name"]: row for row in outcome.rows}
    ours = next(row for name, row in found.items() if name.endswith("int8"))
    logits = OnnxClassifier.open(tiny_student, precision="int8", threads=1).predict_logits(tiny_test.texts)
    assert ours["macro_f1"] == pytest.approx(macro_f1(tiny_test.label_ids, logits))
    assert ours["peak_rss_bytes"] >= ours["ready_rss_bytes"] > 20_000_000
    more = found["heavy"]["peak_rss_bytes"] - found["light"]["peak_rss_bytes"]
    assert more == pytest.approx(HEAVY_BYTES, rel=0.1)
    figures = figures_named("peak_rss_bytes", {"rows": outcome.rows})
    assert figures["heavy_peak_rss_bytes"] == found["heavy"]["peak_rss_bytes"]


def test_a_cold_start_holds_what_loading_takes(
    tiny_student: Bundle, tiny_test: Dataset, measuring_csv: str, tmp_path: Path
) -> None:
    program = "import sys, time\ntime.sleep({})\nfor line in sys.stdin: print('{}', flush=True)"
    commands = tuple(
        f"{name}={shlex.quote(sys.executable)} -c {shlex.quote(program.format(seconds, tiny_test.labels[0]))}"
        for name, seconds in (("quick", 0), ("slow", 1.0))
    )
    settings = SpeedSettings(bundles=(f"{tiny_student.path}:int8",), external=commands, test=measuring_csv, rounds=3, texts=20)
    outcome = run_fresh(settings, context(tmp_path, "cold-start"), rounds=8, threads=1, part_of=cold_start.part_of)
    quick, slow = (row["cold_start_s_rounds"] for row in outcome.rows[1:])
    assert len(quick) == len(slow) == 3
    assert np.median(slow) - np.median(quick) == pytest.approx(1.0, abs=0.5)
    assert all("macro_f1" in row for row in outcome.rows)
