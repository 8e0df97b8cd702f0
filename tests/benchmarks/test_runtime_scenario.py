"""The runtime scenario: figures and multiply-adds computed by hand, and peers over a real pipe."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_task import tiny_texts, write_csv

from benchmarks.harness import footprint
from benchmarks.harness.footprint import multiply_adds
from benchmarks.harness.scenario import Context
from benchmarks.scenarios import runtime
from benchmarks.scenarios.runtime import RuntimeSettings, _candidate_row, _quality_row, figures, table
from distill.bundle import Bundle
from distill.data import Dataset
from distill.evaluation.metrics import macro_f1
from distill.progress import SilentReporter
from distill.settings import DataSettings
from export.measure import openers
from export.measure.circumstances import cpu_for
from export.measure.protocol import Job, in_length_order
from export.measure.workers import PeerError, started
from export.runtime.sessions import OnnxClassifier


def candidate(name: str, **more: Any) -> dict[str, Any]:
    row = {"kind": "candidate", "name": name, "p50_ms": 1.0, "p50_ratio": 1.0, "p50_ratio_range": [0.9, 1.1]}
    row |= {"texts_per_second": 1000.0, "throughput_ratio": 1.0, "macro_f1": 0.8, "size_bytes": 4_000_000, "noisy": False}
    return row | more


ROWS = [
    candidate("potstill"),
    candidate("stock", p50_ratio=1.5, throughput_ratio=2.0),
    {"kind": "candidate", "name": "openvino", "skipped": "it will not install"},
    candidate("teacher", p50_ratio=20.0, throughput_ratio=18.0, size_bytes=92_000_000),
    {
        "kind": "quality",
        "fp32_macro_f1": 0.850,
        "int8_macro_f1": 0.847,
        "labels_changed_by_batch": 0,
        "probability_change_by_batch": 2e-5,
    },
    {
        "kind": "quality",
        "fp32_macro_f1": 0.840,
        "int8_macro_f1": 0.841,
        "labels_changed_by_batch": 1,
        "probability_change_by_batch": 1e-5,
    },
    {
        "kind": "footprint",
        "cold_start_s": 0.3,
        "peak_rss_bytes": 120_000_000,
        "install_bytes": 200_000_000,
        "peak_multiply_adds_per_second": 1e11,
        "multiply_adds_per_text": 5e7,
        "mean_ms_per_text": 1.0,
    },
]


def test_figures_follow_from_the_rows() -> None:
    assert figures({"rows": ROWS}) == {
        "p50_ratio_stock": 1.5,
        "throughput_ratio_stock": 2.0,
        "p50_ratio_teacher": 20.0,
        "throughput_ratio_teacher": 18.0,
        "size_ratio_teacher": 23.0,  # 92 / 4
        "int8_drop": pytest.approx(0.001),  # the mean of 0.003 and -0.001
        "labels_changed_by_batch": 1,
        "probability_change_by_batch": 2e-5,
        "cold_start_s": 0.3,
        "peak_rss_bytes": 120_000_000,
        "install_bytes": 200_000_000,
        "peak_share": pytest.approx(0.5),  # 5e7 / 1e11 = 0.5 ms of arithmetic in 1 ms
    }


def test_the_table_says_why_a_peer_is_missing() -> None:
    lines = table({"rows": ROWS}).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| potstill", "| stock", "| openvino", "| teacher"]
    assert lines[4].endswith("skipped: it will not install |")
    assert len({line.count("|") for line in lines[:6]}) == 1


def test_rows_with_intervals_give_the_same_figures() -> None:
    """As the turns write them: estimates instead of numbers and ranges."""

    def with_interval(row: dict[str, Any]) -> dict[str, Any]:
        names = ("p50_ms", "p50_ratio", "throughput_ratio", "texts_per_second")
        return row | {name: {"value": row[name], "low": row[name], "high": row[name]} for name in names if name in row}

    rows = [with_interval(row) for row in ROWS]
    assert figures({"rows": rows}) == figures({"rows": ROWS})
    assert "| stock | 1.000 | 1.50x | 1.50 - 1.50 | 1,000 | 2.00x |" in table({"rows": rows})


def test_a_students_row_has_the_quality_of_both_graphs_and_what_a_batch_changes(
    tiny_student: Bundle, tiny_test: Dataset
) -> None:
    found = _quality_row(tiny_student.path, tiny_test)
    for precision in ("fp32", "int8"):
        logits = OnnxClassifier.open(tiny_student, precision=precision, threads=1).predict_logits(tiny_test.texts)
        assert found[f"{precision}_macro_f1"] == pytest.approx(macro_f1(tiny_test.label_ids, logits))
    assert (found["num_texts"], found["labels_changed_by_batch"]) == (len(tiny_test), 0)  # fixed scales
    assert found["probability_change_by_batch"] < 1e-4
    assert found["size_bytes"] == tiny_student.size_bytes("int8")


def test_single_texts_and_many_of_a_candidate_are_one_row_and_ratios_say_how_much_faster_ours_is() -> None:
    one = {"name": "stock", "kind": "peer", "p50_ratio": {"value": 0.5, "low": 0.4, "high": 0.625}, "marks": ["a"]}
    many = {"rate_ratio": {"value": 0.8, "low": 0.8, "high": 0.8}, "texts_per_second": 7, "texts_per_second_rounds": [7]}
    about: dict[str, Any] = {"session": {}, "warmup": []}
    found = _candidate_row(one | about, many | about | {"marks": ["a", "b"]})
    assert found["p50_ratio"] == {"value": 2.0, "low": 1.6, "high": 2.5}
    assert (found["throughput_ratio"]["value"], found["texts_per_second"]) == (1.25, 7)
    assert (found["kind"], found["marks"]) == ("candidate", ["a", "b"])
    gone = {"name": "openvino", "failed": "it will not install"}
    assert _candidate_row(gone, gone) == {"kind": "candidate", "name": "openvino", "skipped": "it will not install"}


def test_a_run_times_ours_first_and_the_teacher_last_and_adds_what_each_student_gives_and_takes(
    tiny_student: Bundle, tiny_teacher: Bundle, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[tuple[str, list[str]]] = []

    def kept_rows(kind: str, candidates: list[Any], *_: Any) -> list[dict[str, Any]]:
        timed.append((kind, [each.name for each in candidates]))
        same = {"value": 1.0, "low": 1.0, "high": 1.0}
        one = {"p50_ratio": same, "p50_ms": same, "latency_us": [[1000], [3000]], "size_bytes": 1, "macro_f1": 0.5}
        many = {"rate_ratio": same, "texts_per_second": same, "texts_per_second_rounds": [1]}
        return [{"name": each.name, "marks": [], "session": {}, "warmup": [], **one, **many} for each in candidates]

    monkeypatch.setattr(runtime, "kept_rows", kept_rows)
    monkeypatch.setattr(footprint, "install_bytes", lambda: 7)
    monkeypatch.setattr(footprint, "int8_peak_multiply_adds_per_second", lambda: 1e9)
    test = write_csv(tmp_path / "test.csv", tiny_texts(20, seed=1))
    monkeypatch.setattr(Context, "data", DataSettings(train=(str(tiny_csv),), test=str(test)))
    settings = RuntimeSettings(students=(tiny_student.path,), teacher=tiny_teacher.path, peers=("stock",), timeout_s=60)
    rows = runtime.run(settings, Context(tmp_path, "runtime", SilentReporter())).rows
    assert timed == [(kind, ["potstill", "stock", "teacher"]) for kind in ("single", "many")]
    assert [row["kind"] for row in rows] == [*["candidate"] * 3, "quality", "footprint"]
    taken = rows[-1]
    assert (taken["mean_ms_per_text"], taken["p50_ms_per_text"], taken["install_bytes"]) == (2.0, 1.0, 7)
    found = figures({"rows": rows})
    assert found["peak_share"] == pytest.approx(1000 * taken["multiply_adds_per_text"] / 1e9 / 2.0)
    assert found["cold_start_s"] > 0
    assert "p50_ratio_openvino" not in found


def test_multiply_adds_by_hand() -> None:
    config = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2, "id2label": {"0": "a", "1": "b"}}
    # a layer of 3 tokens: 3 * (4 * 16 + 2 * 32) = 384 in weights, 2 * 9 * 4 = 72 in attention; the head: 16 + 8 for one token
    assert multiply_adds(config, num_tokens=3) == 2 * (384 + 72) + 24
    # a table of 2 columns, widened to 4 by a product: 3 * 2 * 4 more
    assert multiply_adds({**config, "embedding_size": 2}, num_tokens=3) == 2 * (384 + 72) + 24 + 24
    # the same of the neighbours' vectors too, and of whole ones: 3 * 3 * 4 * 4
    assert multiply_adds({**config, "embedding_size": 4, "trigram_input": True}, num_tokens=3) == 2 * (384 + 72) + 24 + 144


def test_answers_in_length_order_come_back_in_the_texts_order() -> None:
    texts = ["aaa", "a", "aaaaa", "aa", "aaaa"]
    asked: list[list[str]] = []

    def answer(batch: list[str]) -> np.ndarray:
        asked.append(batch)
        return np.array([[float(len(text))] for text in batch])

    assert in_length_order(texts, answer, batch=2)[:, 0].tolist() == [3, 1, 5, 2, 4]
    assert asked == [["aaaaa", "aaaa"], ["aaa", "aa"], ["a"]]


def job_for(bundle: Bundle, folder: Path) -> Job:
    return Job(bundle=bundle.path, folder=folder / "own", threads=1, options={"form": "int8"})


def test_a_worker_answers_over_its_pipe(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> None:
    texts = tiny_test.texts[:40]
    expected = OnnxClassifier.open(tiny_student, precision="int8", threads=1).predict_logits(texts)
    with started(openers.__name__, job_for(tiny_student, tmp_path)) as worker:
        alone, many = worker.single(texts, warmup=2), worker.many(texts)
    assert worker.about["size_bytes"] == tiny_student.size_bytes("int8")
    assert len(alone.ms) == 40
    assert min(alone.ms) > 0
    assert many.seconds > 0
    np.testing.assert_allclose(alone.logits, expected, atol=1e-6)
    np.testing.assert_allclose(many.logits, expected, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a processor")
def test_a_worker_and_what_it_starts_stay_on_their_processor(tiny_student: Bundle, tmp_path: Path) -> None:
    program = "import os, sys\nfor _ in sys.stdin: print(*sorted(os.sched_getaffinity(0)), flush=True)"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    cpu = max(os.sched_getaffinity(0))
    assert cpu_for(1) == cpu
    assert cpu_for(2) is None
    job = replace(job_for(tiny_student, tmp_path), labels=("elsewhere", f"{cpu}"), options={"command": command})
    with started("benchmarks.peers.external", job, cpu=cpu) as worker:
        assert worker.single(["a text"], warmup=0).logits.argmax() == 1


def test_a_worker_that_dies_says_why(tiny_unexported: Bundle, tmp_path: Path) -> None:
    with (
        pytest.raises(PeerError, match=r"export.measure.openers stopped with code 1: .*has no model_int8\.onnx"),
        started(openers.__name__, job_for(tiny_unexported, tmp_path)),
    ):
        pass
