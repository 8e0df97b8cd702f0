"""The scale scenario: its arithmetic, and its steps on forty texts of the tiny task."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.harness.pieces import Pieces
from benchmarks.harness.scenario import Context
from benchmarks.scale import figures as scale_figures
from benchmarks.scale import scripts
from benchmarks.scenarios import scale
from distill.bundle import Bundle
from distill.classifier import predict
from distill.data import Dataset
from distill.models.loading import load_bundle
from distill.progress import SilentReporter
from export.measure.children import child
from export.runtime.sessions import OnnxClassifier

ROWS: list[dict[str, Any]] = [
    {"kind": "rate", "name": "runtime", "texts_per_second": 5000.0, "threads": 2},
    {"kind": "rate", "name": "threads", "rows_per_second": 4500.0, "threads": 2, "peak_rss_bytes": 400_000_000},
    {"kind": "rate", "name": "ray", "rows_per_second": 3600.0, "threads": 2},
    {"kind": "rate", "name": "1 node", "rows_per_second": 2000.0, "seconds": 60, "threads": 2, "engine_processor_seconds": 3},
    {"kind": "rate", "name": "2 nodes", "rows_per_second": 3000.0, "seconds": 40, "threads": 2, "engine_processor_seconds": 6},
    {"kind": "rate", "name": "pipeline", "rows_per_second": 225.0},
    {"kind": "rate", "name": "plain_ort", "rows_per_second": 1500.0},
    {"kind": "check", "name": "the labels are those of predict", "holds": True},
    {"kind": "kill", "victim": "worker", "lossless": True},
    {"kind": "kill", "victim": "driver", "lossless": True},
    {"kind": "kill", "victim": "node", "lossless": False},
]


def test_figures_follow_from_the_rows() -> None:
    assert scale_figures.scale_figures({"rows": ROWS}) == {
        "stream_share": 0.9,  # 4,500 of 5,000
        "peak_rss_bytes": 400_000_000,
        "ray_share": 0.8,  # 3,600 of 4,500
        "ray_two_nodes_efficiency": 0.75,  # 3,000 of twice 2,000
        "kills_lossless": 2,
        "ratio_pipeline": 20.0,
        "ratio_plain_ort": 3.0,
    }


def test_capacity_is_a_plain_product_and_says_that_it_is_simulated() -> None:
    one, ten, *_ = rows = scale_figures.capacity_rows(ROWS, cores=16, price_per_hour=0.72)
    assert [row["machines"] for row in rows] == [1, 10, 100, 1000]
    assert all(row["simulated"] for row in rows)
    assert one["rows_per_second"] == 16 * 2250  # a core did 4,500 / 2
    assert ten["rows_per_second"] == pytest.approx(10 * 16 * 2250 * 0.8)  # with Ray's share
    # 0.72 an hour is 0.0002 a second; a million rows take 1e6 / 36,000 s
    assert one["cost_per_million"] == pytest.approx(0.0002 * 1e6 / 36_000)
    assert ten["cost_per_million"] == pytest.approx(one["cost_per_million"] / 0.8)


@pytest.mark.parametrize(("places", "noisy"), [((0.0, 0.99), "c b a"), ((0.4, 0.0), "b a c"), ((0.5, 0.5), "a b c")])
def test_noise_exchanges_two_words(places: tuple[float, float], noisy: str) -> None:
    assert scale._noisy("a b c", *places) == noisy


def test_the_table_is_the_same_for_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "TextSources", lambda *_: ["one two three", "four five six"])  # turns, once shuffled
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        scale.write_corpus(tmp_path / name, 500, seed=seed)
    first, same, other = (pq.read_table(tmp_path / name) for name in ("a", "b", "c"))
    assert first.equals(same)
    assert not first.equals(other)
    assert first["id"].to_pylist() == list(range(500))
    firsts = ["one" in text.split() for text in first["text"].to_pylist()]
    assert firsts in ([True, False] * 250, [False, True] * 250)


def test_a_run_takes_up_the_steps_that_are_there_and_adds_the_capacity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "shipped", lambda student, copy, without: student)
    monkeypatch.setattr(scale, "_table", lambda work, rows: tmp_path / f"{rows}")
    monkeypatch.setattr(scale, "script_row", lambda kind, table, folder: {**ROWS[5], "table": table.name})
    pieces = Pieces(tmp_path / "scale")
    kept = {"runtime": ROWS[:1], "threads": ROWS[1:2], "ray": ROWS[2:3], "same_answers": [], "nodes": [], "kills": []}
    for name, rows in {**kept, "plain_ort": ROWS[6:7]}.items():
        pieces.put(name, rows)
    plan = scale.Plan(student=tmp_path, teacher=tmp_path, pipeline_rows=64)
    outcome = scale.run(plan, Context(tmp_path, "scale", SilentReporter()))
    assert [row["name"] for row in outcome.rows[:5]] == ["runtime", "threads", "ray", "pipeline", "plain_ort"]
    assert pieces.find("pipeline")[0]["table"] == "64"  # it was the only one missing
    assert [row["machines"] for row in outcome.rows[5:]] == [1, 10, 100, 1000]


@pytest.fixture
def table(tmp_path: Path, tiny_test: Dataset) -> Path:
    texts = tiny_test.single_texts()[:40]
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_the_runtime_is_timed_in_memory_by_its_best_round(table: Path, tiny_student: Bundle) -> None:
    row = scale.runtime_row(tiny_student.path, table)
    assert len(row["rounds"]) == 5
    assert row["texts_per_second"] == max(row["rounds"]) > 0


def test_a_job_says_what_it_labelled_and_the_most_memory_that_it_held(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import json, pathlib, sys, time; held = b'1' * 50_000_000; time.sleep(0.4); out = pathlib.Path(sys.argv[1]);"
        "out.mkdir(); (out / 'part-0').touch(); print('words'); print(json.dumps(dict(num_rows=40, seconds=0.5, labels={})))"
    )
    monkeypatch.setattr(scale, "_command", lambda bundle, table, out: [sys.executable, "-c", program, str(out)])
    row = scale.job_row("threads", tmp_path, table, tmp_path)
    assert (row["rows_per_second"], row["digest"]) == (80.0, scale.digest_of(tmp_path / "out-threads"))
    assert row["process_seconds"] > 0.4
    assert row["peak_rss_bytes"] > 50_000_000
    (tmp_path / "threads.json").write_text(json.dumps([row]))
    (tmp_path / "ray.json").write_text(json.dumps([{**row, "digest": "another"}]))
    assert not scale._same_bytes(tmp_path)["holds"]


def test_labels_are_checked_against_those_of_predict(table: Path, tmp_path: Path, tiny_student: Bundle) -> None:
    answers = predict(OnnxClassifier.open(tiny_student), pq.read_table(table).column("text").to_pylist())
    labels = [answer.label for answer in answers]
    for name, given in (("right", labels), ("wrong", labels[::-1])):
        pq.write_table(pa.table({"id": range(len(given)), "label": given}), tmp_path / name)
    assert scale.labels_row(tiny_student.path, table, tmp_path / "right")["holds"]
    assert not scale.labels_row(tiny_student.path, table, tmp_path / "wrong")["holds"]


class LongestWord:
    """Stands for the stock graph of a student."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        assert (folder.is_dir(), threads) == (True, 1)

    def answer(self, texts: list[str]) -> list[tuple[str, float]]:
        assert len(texts) <= scripts.BATCH
        return [(max(text.split(), key=len), 1.0) for text in texts]


@pytest.mark.parametrize("kind", ["pipeline", "plain_ort"])
def test_the_obvious_scripts_give_each_text_a_label(
    kind: str, table: Path, tiny_teacher: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.peers.servers.inside.stock_model.StockModel", LongestWord)
    scripts.main(kind, str(table), str(tiny_teacher.path), "1")
    assert json.loads(capsys.readouterr().out)["num_rows"] == 40
    found = pq.read_table(table.with_suffix(".labels.parquet"))
    texts = pq.read_table(table)["text"].to_pylist()
    labels = predict(load_bundle(tiny_teacher), texts)
    wanted = [max(text.split(), key=len) for text in texts] if kind == "plain_ort" else [each.label for each in labels]
    assert (found["id"].to_pylist(), found["label"].to_pylist()) == (list(range(40)), wanted)


def test_a_script_is_run_beside_the_harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scale, "found_by", lambda module, *words, **_: {"num_rows": 40, "seconds": 0.5, "asked": words[0]})
    row = scale.script_row("pipeline", tmp_path, tmp_path)
    assert (row["name"], row["rows_per_second"], row["asked"]) == ("pipeline", 80.0, "pipeline")


def test_a_command_is_killed_once_and_run_until_it_ends_well(tmp_path: Path) -> None:
    write = (
        "import pathlib, sys, time; pathlib.Path(sys.argv[1], 'part-0').touch(); time.sleep(60 * ('part-1' not in sys.argv[2]))"
    )
    asked: list[int] = []

    def kill(process: subprocess.Popen[bytes]) -> bool:
        asked.append(process.pid)
        process.kill()
        command[-1] = "part-1"  # the second run finds what it waits for
        return True

    command = [sys.executable, "-c", write, str(tmp_path), "nothing"]
    assert scale.run_and_kill(command, tmp_path, kill, after=1) == (2, True)
    assert len(asked) == 1
    assert scale.run_and_kill(command, tmp_path, kill, after=2) == (1, False)  # it ended before there were two parts


def test_the_digest_of_an_output_has_its_names_and_contents(tmp_path: Path) -> None:
    for name, file, content in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(content)
    first, same, renamed, changed = (scale.digest_of(tmp_path / name) for name in "abcd")
    assert first == same
    assert len({first, renamed, changed}) == 3


def test_the_page_says_what_is_computed() -> None:
    rows = [*ROWS, *scale_figures.capacity_rows(ROWS, cores=16, price_per_hour=0.72)]
    page = scale_figures.scale_markdown({"rows": rows, "command": "it"})
    assert "| threads | 4,500 | 20,000 | 400 |" in page
    # 36,000 rows a second: a billion in 27,778 s
    assert "| 1 machines of 16 processors at 0.72 an hour | 36,000 | 7.7 | 0.0056 |" in page
    assert "2 of 3 killed runs ended with the digest of an uninterrupted run. The labels are those of predict: yes." in page
    # a million rows: 277.8 s at 3,600 a second, 222.2 s at 4,500; 3 of 120 and 6 of 80 processor seconds
    assert "Ray takes 56 s longer for a million rows" in page
    assert "its own processes used 2.5% (1 node), 7.5% (2 nodes) of both processors." in page


class Cluster:
    """Stands for a cluster of Ray."""

    address = "here"

    def __init__(self) -> None:
        self.worker_nodes = {"second"}
        self.done: list[str] = []

    def remove_node(self, node: str, *, allow_graceful: bool) -> None:
        assert not allow_graceful
        self.done.append(f"removed {node}")

    def add_node(self, *, num_cpus: int) -> None:
        self.done.append(f"added {num_cpus}")


def test_the_processor_time_of_the_engine_is_said_for_one_node_and_for_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([1.0, 4.0, 10.0, 16.0])
    monkeypatch.setattr(scale, "_cluster", lambda nodes: nullcontext(Cluster()))
    monkeypatch.setattr(scale, "_engine_seconds", lambda: next(seconds))
    monkeypatch.setattr(scale, "job_row", lambda name, bundle, table, work, *more: {"name": name, "asked": more})
    rows = [scale.node_row(nodes, tmp_path, tmp_path, tmp_path) for nodes in (1, 2)]
    assert [(row["name"], row["engine_processor_seconds"]) for row in rows] == [("1 node", 3.0), ("2 nodes", 6.0)]
    assert all(row["asked"] == ("--ray", "here") for row in rows)


def test_each_victim_is_killed_in_turn_and_the_output_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out-kill").mkdir()
    pq.write_table(pa.table({"id": range(20 * scale.PART_ROWS)}), tmp_path / "rows")
    monkeypatch.setattr(scale, "_cluster", lambda nodes: nullcontext(Cluster()))
    digests = iter(["other", "whole", "whole"])
    monkeypatch.setattr(scale, "digest_of", lambda out: next(digests))
    monkeypatch.setattr(scale, "job_row", lambda *_: {"digest": "whole"})
    ended = iter([(2, True), (2, True), (2, True), (1, False)])
    monkeypatch.setattr(scale, "run_and_kill", lambda command, out, kill, after: next(ended))
    rows = scale._kill_rows(tmp_path, tmp_path / "rows", tmp_path, 4)
    assert [row["victim"] for row in rows] == ["worker", "driver", "node", "worker"]
    assert [row["lossless"] for row in rows] == [False, True, True, False]  # the last one killed nothing
    assert all(1 <= row["after_parts"] < 16 for row in rows)


def test_a_worker_a_driver_or_a_node_is_killed(tmp_path: Path) -> None:
    cluster, code = Cluster(), "import time; time.sleep(60)  # /ray/ MapWorker"
    with child([sys.executable, "-c", code]) as worker:
        assert list(scale._of_ray("MapWorker", lambda process: process.pid)) == [worker.pid]
        assert scale._engine_seconds() >= 0
        assert scale._kill("worker", cluster, worker)
        assert worker.wait(5) < 0
    assert not scale._kill("worker", cluster, worker)
    with child([sys.executable, "-c", code]) as driver:
        assert scale._kill("driver", cluster, driver)
        assert driver.wait(5) < 0
    assert scale._kill("node", cluster, driver)
    assert cluster.done == ["removed second", "added 1"]


def test_a_table_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "write_corpus", lambda path, rows: path.write_text(f"{rows} rows"))
    table = scale._table(tmp_path, 7)
    assert (table.name, table.read_text()) == ("rows-7.parquet", "7 rows")
    table.write_text("kept")
    assert scale._table(tmp_path, 7).read_text() == "kept"
