"""The serving scenario in seconds: our server, the tiny student, every phase except the peers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.scenario import Context
from benchmarks.peers.servers import SERVERS
from benchmarks.scenarios.serving import cut_to_fit, run_phases, weigh_generator
from benchmarks.serving import servers
from benchmarks.serving.figures import serving_figures
from benchmarks.serving.plan import PHASES, QUICK, Plan
from benchmarks.serving.servers import started
from distill.bundle import Bundle
from distill.data import Dataset
from distill.errors import SettingsError
from distill.progress import SilentReporter
from export.measure.workers import PeerError
from export.runtime.sessions import OnnxClassifier


def run(student: Bundle, test: Dataset, work: Path, *phases: str) -> list[dict[str, Any]]:
    brief = {"rounds": 1, "overload_s": 1.0, "soak_s": 1.5, "soak_reload_s": 0.5}
    plan = Plan(**QUICK).model_copy(update={**brief, "phases": phases})
    return [dict(row) for row in run_phases(student.path, test, plan, Context(work, "serving", SilentReporter())).rows]


@pytest.mark.slow
def test_every_phase_runs_and_is_kept(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> None:
    rows = {row["kind"]: row for row in run(tiny_student, tiny_test, tmp_path, *PHASES)}
    assert list(rows) == ["generator", "server", *PHASES[2:]]
    served = rows["server"]
    assert served["errors"] == 0
    assert served["num_texts"] == 200
    assert served["labels_other_than_predicted"] == 0
    assert 0.9 < float(str(served["macro_f1"])) <= 1
    assert rows["half_load"]["errors"] == 0
    (cpu_us,) = rows["half_load"]["server_cpu_us_per_request_rounds"]
    assert 10 < cpu_us < 1e5
    assert (rows["overload"]["lost"], rows["overload"]["wrong"]) == (0, 0)
    assert set(rows["overload"]["statuses"]) <= {"200", "429", "504"}  # 504: other tests may hold the processor past a deadline
    assert rows["overload"]["right_afterwards"]
    reload = rows["reload"]
    assert (reload["reloads"], reload["lost"], reload["errors"], reload["wrong"]) == (2, 0, 0, 0)
    assert reload["sigterm_exit_code"] == 0
    assert (rows["soak"]["reloads"], rows["soak"]["errors"], rows["soak"]["right_afterwards"]) == (2, 0, True)
    figures = serving_figures({"rows": list(rows.values())})
    assert figures["overload_5xx"] == rows["overload"]["statuses"].get("504", 0)
    assert figures["lost_in_reload"] == 0

    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    again = run(tiny_student, tiny_test, tmp_path, "generator", "half_load", "overload", "reload", "soak")
    assert list(dict.fromkeys(row["kind"] for row in again)) == list(rows)  # half the load has two
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


def test_a_long_text_is_cut_where_the_student_stops_reading(tiny_student: Bundle) -> None:
    # 32 tokens are read, the first and the last of them special: 30 words
    long, short = "great film " * 40, "great film " * 15
    assert cut_to_fit([long, short], tiny_student.path) == (short.strip(), short)
    classifier = OnnxClassifier.open(tiny_student)
    whole, cut = classifier.predict_logits([long]), classifier.predict_logits([short])
    np.testing.assert_allclose(whole, cut, atol=1e-6)


def test_an_unknown_phase_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"phases.*'generator', 'compare'"):
        Plan(phases=("nap",))  # type: ignore[arg-type]


def test_the_generator_is_weighed_against_a_server_that_answers_at_once() -> None:
    row = weigh_generator(Plan(**QUICK))
    assert row["requests_per_second"] > 100
    assert row["us_per_request"] > 0
    assert 0 < row["processor_share"] < 1.1


def test_a_server_that_stops_or_is_not_ready_in_time_says_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys, time; print('no bundle here', flush=True); time.sleep(float(sys.argv[1])); sys.exit(3)"
    peer = replace(SERVERS["potstill"], command=lambda start: [str(start.python), "-c", program])
    with pytest.raises(PeerError, match="potstill stopped with code 3: no bundle"), started(peer, Path(), {}, arguments=("0",)):
        pass
    monkeypatch.setattr(servers, "READY_TIMEOUT_S", 0.5)
    with pytest.raises(PeerError, match="potstill was not ready within 0 s"), started(peer, Path(), {}, arguments=("60",)):
        pass
