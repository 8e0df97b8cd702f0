"""The phases of the serving scenario: what each asks of a server and makes of its answers; servers and loads are replaced."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.scenario import Context, Outcome
from benchmarks.peers.servers.protocol import ServerPeer, Setting
from benchmarks.scenarios import serving
from benchmarks.serving import comparing, ours
from benchmarks.serving.figures import serving_figures
from benchmarks.serving.generator import Load
from benchmarks.serving.load import Samples
from benchmarks.serving.plan import PHASES, DatedPieces, Plan, Task
from distill.bundle import WEIGHTS
from distill.data import Dataset
from distill.progress import SilentReporter
from export.measure.workers import PeerError

LABELS = ("bad", "good")
TASK = Task(
    bundle=Path("student"),
    other=Path("other"),
    stock=Path("stock"),
    test=Dataset(("dull", "great"), np.array([0, 1]), LABELS, "the test"),
    texts=("dull", "great"),
    predicted=("bad", "good"),
)
PLAN = Plan(
    rounds=2,
    reloads=2,
    warmup_s=0.02,
    overload_s=0.6,
    soak_s=0.7,
    soak_reload_s=0.2,
    peers=("litserve", "infinity"),
)
RIGHT = [1, 2] * 500
"""Numbers of the bodies of 1,000 answers to the two texts, bad and good in turns."""


class Place:
    """Stands for the machine: the server that was started last, and every load that was put on it."""

    def __init__(self) -> None:
        self.loads: list[Load] = []
        self.signals: list[int] = []
        self.peer: ServerPeer | None = None
        self.setting: Setting = {}
        self.version = 0
        self.spent_s = 0.0
        self.statuses: Sequence[int] = [200] * 1000
        self.answers: Sequence[int] = RIGHT
        self.ms: Sequence[float] = [10.0] * 1000
        self.port = 1
        self.process = SimpleNamespace(wait=lambda _: 0)

    @contextmanager
    def started(self, peer: ServerPeer, folder: Path, setting: Setting, **_: Any) -> Iterator[Place]:
        if peer.name == "infinity":
            raise PeerError("infinity will not install")
        self.peer, self.setting = peer, setting
        yield self

    @contextmanager
    def running(self, load: Load) -> Iterator[Any]:
        yield SimpleNamespace(wait=lambda: self.run(load))

    def run(self, load: Load) -> Samples:
        self.loads.append(load)
        if load.rate is not None and load.seconds in (PLAN.overload_s, PLAN.soak_s):
            time.sleep(0.25)  # for the memory to be looked at
        count = min(load.most, 1000)
        due = np.arange(count) / 1000
        return Samples(
            due_s=due,
            sent_s=due + 0.002,
            free_s=due,
            ended_s=due + np.array(self.ms[:count]) / 1000,
            status=np.array(self.statuses[:count]),
            answer=np.array(self.answers[:count]),
            bodies=(b"", *(self.body(label) for label in (*LABELS, "ugly"))),
            wall_s=2.0 if self.setting.get("fast_queue") is False else 4.0 if "batch" in self.setting else 1.0,
            cpu_s=0.05,
        )

    def body(self, label: str) -> bytes:
        ours_says = self.peer is None or self.peer.name == "potstill"
        return json.dumps([{"label": label, "score": 0.9}] if ours_says else {"label": label}).encode()

    def ask(self, method: str, path: str, **_: Any) -> tuple[int, bytes]:
        if path == "/info":
            return 200, json.dumps({"models": {"student": {"version": self.version}}}).encode()
        return 200, self.body("bad")

    def send(self, number: int) -> None:
        self.signals.append(number)
        self.version += number == signal.SIGHUP

    def cpu_s(self) -> float:
        self.spent_s += 0.5
        return self.spent_s

    def memory_bytes(self) -> int:
        return 1000


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place()
    monkeypatch.setattr(comparing, "started", found.started)
    for module in (ours, comparing):
        monkeypatch.setattr(module, "run", found.run)
    monkeypatch.setattr(ours, "running", found.running)
    return found


def test_half_load_counts_what_was_not_answered_and_what_a_request_cost(place: Place) -> None:
    place.statuses = [500, *[200] * 999]
    row, fixed = ours.half_load(TASK, PLAN, 50.0)["rows"]
    assert (row["errors"], row["statuses_rounds"]) == (2, [{"200": 999, "500": 1}] * 2)
    assert row["latency"]["p50_ms"] == pytest.approx(10.0)
    assert row["server_cpu_us_per_request_rounds"] == pytest.approx([0.5 / 999 * 1e6] * 2)
    assert row["generator"]["late_p99_ms"] == pytest.approx(2.0)
    assert row["p99_ms"] == fixed["p99_ms"] == pytest.approx(10.0)
    rates = [load.rate for load in place.loads]
    assert rates == [None, 50.0, None, 50.0, None, PLAN.fixed_rate, None, PLAN.fixed_rate]  # a warm-up of each new server
    assert [load.seed for load in place.loads[1::2]] == [0, 1, 0, 1]


def test_overload_tells_late_refused_wrong_and_failed_answers_apart(place: Place) -> None:
    place.statuses = [429 if number % 5 == 4 else 503 if number == 1 else 200 for number in range(1000)]
    place.answers = [3 if number == 2 else body for number, body in enumerate(RIGHT)]
    place.ms = [200.0 if number == 3 else 1.0 for number in range(1000)]
    row = ours.overload(TASK, PLAN, 400.0)
    assert row["statuses"] == {"200": 799, "429": 200, "503": 1}
    assert (row["server_errors"], row["accepted_late"], row["wrong"], row["lost"]) == (1, 1, 1, 0)
    assert row["accepted_worst_ms"] == pytest.approx(200.0)
    assert row["rejected"]["count"] == 200
    assert (row["right_afterwards"], row["memory_growth"]) == (True, 0.0)
    assert all(b"x-deadline-ms: 150\r\n" in request for request in place.loads[-2].requests)


def test_an_answer_with_another_label_than_the_bundles_is_wrong_while_they_are_exchanged(place: Place) -> None:
    row = ours.reloads(TASK, PLAN)
    assert (row["reloads"], row["wrong"], row["errors"], row["sigterm_exit_code"]) == (2, 0, 0, 0)
    assert place.signals == [signal.SIGHUP, signal.SIGHUP, signal.SIGTERM]
    place.answers = [2] * 1000  # `good`, also for `dull`
    assert ours.reloads(TASK, PLAN)["wrong"] == 500


def test_a_server_that_does_not_reload_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "send", lambda number: None)
    monkeypatch.setattr(ours, "PATIENCE_S", 0.1)
    with pytest.raises(Exception, match="still serves the earlier bundle"):
        ours.reloads(TASK, PLAN)


def test_the_fastest_setting_of_a_peer_is_compared_and_who_cannot_take_part_says_why(place: Place, tmp_path: Path) -> None:
    pieces = DatedPieces(tmp_path)
    mine, peer, gone = comparing.compare(TASK, PLAN, pieces, reporter=SilentReporter())
    assert peer["settings"]["fast_queue"] is False  # 1,000 requests in 2 s, with the others in 4 s
    assert [each["requests_per_second"] for each in peer["tried"]] == [*[250.0] * 4, 500.0]
    assert (mine["requests_ratio"], peer["requests_ratio"]) == (1.0, 2.0)
    assert (peer["macro_f1"], peer["labels_other_than_predicted"]) == (1.0, 0)
    assert gone == {"kind": "server", "name": "infinity", "skipped": "infinity will not install"}
    count = len(place.loads)
    comparing.compare(TASK, PLAN, pieces, reporter=SilentReporter())
    assert len(place.loads) == count  # finished turns are kept


def test_a_server_with_labels_of_its_own_is_refused_and_silence_counts_as_wrong(place: Place, tmp_path: Path) -> None:
    place.statuses = [429, *[200] * 999]  # no label for the first text
    alone = PLAN.model_copy(update={"peers": ()})
    (mine,) = comparing.compare(TASK, alone, DatedPieces(tmp_path / "a"), reporter=SilentReporter())
    assert (mine["labels_other_than_predicted"], mine["macro_f1"]) == (1, pytest.approx(1 / 3))  # F1 0 and 2/3
    place.answers = [3] * 1000
    with pytest.raises(PeerError, match="labels that the texts do not have: ugly"):
        comparing.compare(TASK, alone, DatedPieces(tmp_path / "b"), reporter=SilentReporter())


def test_all_phases_run_in_their_order_and_finished_ones_are_kept(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def prepared(student: Path, test: Dataset, **_: Any) -> Iterator[Task]:
        yield TASK

    files = {WEIGHTS: SimpleNamespace(sha256="0123456789abcdef")}
    monkeypatch.setattr(serving, "prepared", prepared)
    monkeypatch.setattr(serving, "write_stock_folder", lambda student, folder: folder)
    monkeypatch.setattr(
        serving, "Bundle", SimpleNamespace(open=lambda _: SimpleNamespace(manifest=SimpleNamespace(files=files)))
    )
    monkeypatch.setattr(serving, "weigh_generator", lambda plan: {"kind": "generator", "requests_per_second": 9000.0})

    def run(plan: Plan = PLAN) -> Outcome:
        return serving.run_phases(Path("student"), TASK.test, plan, Context(tmp_path, "serving", SilentReporter()))

    half = run(PLAN.model_copy(update={"phases": ("half_load",)}))
    assert [row["kind"] for row in half.rows] == ["saturate", "half_load", "half_load"]  # half of what is measured first
    found = run()
    rows = found.rows
    assert list(dict.fromkeys(row["kind"] for row in rows)) == ["generator", "server", *PHASES[2:]]
    assert found.parts == {"missing": []}
    by_kind = {row["kind"]: row for row in reversed(rows)}
    assert by_kind["half_load"]["rate"] == 0.5 * by_kind["saturate"]["requests_per_second"]
    assert by_kind["soak"]["reloads"] == 2
    assert by_kind["overload"]["rate"] == 2 * by_kind["saturate"]["requests_per_second"]
    figures = serving_figures({"rows": rows})
    assert (figures["requests_ratio_best_peer"], figures["lost_in_reload"], figures["soak_growth"]) == (2.0, 0, 0.0)
    count = len(place.loads)
    assert [row["kind"] for row in run().rows] == [row["kind"] for row in rows]
    assert len(place.loads) == count
