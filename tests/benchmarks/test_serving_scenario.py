"""The serving scenario in seconds: our server, the tiny student, every phase except the peers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.scenarios.serving import cut_to_fit, run_serving
from benchmarks.serving.figures import serving_figures
from benchmarks.serving.plan import PHASES, QUICK, Plan
from distill.bundle import Bundle
from distill.data import Dataset
from distill.errors import PotstillError
from distill.progress import SilentReporter
from export.runtime.sessions import OnnxClassifier


def run(student: Bundle, test: Dataset, work: Path, *phases: str) -> list[dict[str, object]]:
    brief = {"overload_s": 1.0, "soak_s": 1.5, "soak_reload_s": 0.5}
    plan = Plan(**QUICK).model_copy(update={**brief, "phases": phases})
    return run_serving(student.path, test=test, plan=plan, work=work, reporter=SilentReporter())


@pytest.mark.slow
def test_every_phase_runs_and_is_kept(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> None:
    with pytest.raises(PotstillError, match="run the phase `saturate` first"):
        run(tiny_student, tiny_test, tmp_path, "half_load")
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
    assert (rows["overload"]["server_errors"], rows["overload"]["lost"], rows["overload"]["wrong"]) == (0, 0, 0)
    assert rows["overload"]["right_afterwards"]
    reload = rows["reload"]
    assert (reload["reloads"], reload["lost"], reload["errors"], reload["wrong"]) == (2, 0, 0, 0)
    assert reload["sigterm_exit_code"] == 0
    assert (rows["soak"]["reloads"], rows["soak"]["errors"], rows["soak"]["right_afterwards"]) == (2, 0, True)
    figures = serving_figures({"rows": list(rows.values())})
    assert (figures["overload_5xx"], figures["lost_in_reload"]) == (0, 0)

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


def test_an_unknown_phase_is_refused(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> None:
    with pytest.raises(PotstillError, match="there is no phase 'nap'; choose from generator"):
        run(tiny_student, tiny_test, tmp_path, "nap")
