"""The load generator against small real servers: what it counts, from when it measures, and its own cost."""

from __future__ import annotations

import io
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from benchmarks.harness.results import read_result
from benchmarks.serving import generator
from benchmarks.serving.generator import STARTED, Generator, Load, drawn_starts, main, take_response
from benchmarks.serving.load import Samples, percentiles, post, run, running
from benchmarks.serving.servers import free_port
from distill.errors import PotstillError

REQUESTS = tuple(post("/predict", b'{"inputs": "%d"}' % number) for number in range(10))


@contextmanager
def answering(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve connections with `handle`, a thread each, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=attend, args=(connection,), daemon=True).start()

        def attend(connection: socket.socket) -> None:
            with connection:
                handle(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        stop.set()


Run = Callable[[Load], Samples]


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Return a function that runs a load in this process, through the same text as in one of its own."""
    made: list[Generator] = []

    class Kept(Generator):
        def __init__(self, load: Load) -> None:
            super().__init__(load)
            made.append(self)

    def run_load(load: Load) -> Samples:
        given, said = io.StringIO(TypeAdapter(Load).dump_json(load).decode()), io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(said):
            patch.setattr(sys, "stdin", given)
            main()
        return Samples.from_json(said.getvalue().removeprefix(STARTED))

    monkeypatch.setattr(generator, "Generator", Kept)
    monkeypatch.setattr(generator, "SETTLE_S", 0.0)
    monkeypatch.setattr(generator, "gc", SimpleNamespace(disable=lambda: None))
    yield run_load
    for each in made:
        for connection in each._idle:
            each._close(connection)
        each._poll.close()


def answer(status: str, body: bytes, *, more: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode() + more + b"\r\n" + body


def test_a_response_is_taken_when_whole() -> None:
    whole = answer("200 OK", b"[1]")
    assert take_response(whole[:-1]) is None
    assert take_response(whole + b"HTTP") == (200, b"[1]", False, len(whole))
    closing = answer("429 Too Many", b"", more=b"Connection: close\r\n")
    assert take_response(closing) == (429, b"", True, len(closing))


def test_a_chunked_response_is_put_together() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    assert take_response(head + chunks) == (200, b"abcde", False, len(head + chunks))
    assert all(take_response((head + chunks)[:cut]) is None for cut in range(len(head), len(head + chunks)))


def test_starts_are_poisson() -> None:
    starts = drawn_starts(2000.0, 10.0, seed=0)
    gaps = np.diff(starts)
    assert 0 < starts[0] < starts[-1] < 10
    assert len(starts) == pytest.approx(20_000, abs=5 * 20_000**0.5)  # five standard deviations of a Poisson count
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential gaps: deviation and mean are equal
    assert not np.array_equal(starts[:5], drawn_starts(2000.0, 10.0, seed=1)[:5])


def test_a_percentile_needs_its_samples() -> None:
    values = np.arange(1000.0)
    assert percentiles(values[:63])["p90_ms"] is None
    assert percentiles(values[:64])["p90_ms"] == pytest.approx(0.9 * 63)
    assert percentiles(values[:661])["p99_ms"] is None
    found = percentiles(values[:662])
    assert found["p99_ms"] == pytest.approx(0.99 * 661)
    # 662 samples that grow steadily, in ten stretches: without the last, as one draw in three is, p99 is below 600
    assert found["p99_low_ms"] is not None
    assert found["p99_low_ms"] < 600
    assert found["p99_high_ms"] == pytest.approx(661, abs=5)


def test_the_unit_of_a_tails_interval_is_the_round() -> None:
    calm, slow = np.ones(200), np.full(200, 9.0)
    found = percentiles(calm, calm, calm, slow)
    assert (found["count"], found["p50_ms"], found["p99_ms"]) == (800, 1.0, 9.0)
    assert (found["p99_low_ms"], found["p99_high_ms"]) == (1.0, 9.0)


def test_open_loop_counts_from_when_a_request_was_due() -> None:
    """One connection, and a server that stops once for 0.4 s: every request due meanwhile waited, and must say so."""
    stopped = threading.Event()

    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            if not stopped.is_set():
                stopped.set()
                time.sleep(0.4)
            connection.sendall(answer("200 OK", b"[]"))

    with answering(handle) as port:
        samples = run(Load(port, REQUESTS, 1, seconds=1.0, rate=100.0))
    assert samples.statuses() == {"200": len(samples.due_s)}
    began = samples.due_s[0]
    waited = samples.latency_ms[(samples.due_s - began > 0.01) & (samples.due_s - began < 0.2)]
    assert len(waited) > 5
    assert waited.min() > 180  # due before 0.2 s, answered after 0.4 s
    from_sending_ms = (samples.ended_s - samples.sent_s)[1:] * 1000
    assert np.median(from_sending_ms) < waited.min()  # from the sending, only the first would look slow
    late_ms = (samples.sent_s - samples.free_s) * 1000
    assert np.median(late_ms) < waited.min()  # the one connection was not free: the server was late, not the generator


def test_what_is_lost_refused_or_rejected_is_told_apart(run_here: Run) -> None:
    seen = threading.Semaphore(3)

    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            if not seen.acquire(blocking=False):
                connection.close()  # takes the request, never answers
                return
            connection.sendall(answer("429 Too Many Requests", b"{}"))

    with answering(handle) as port:
        samples = run_here(Load(port, REQUESTS, 1, seconds=5.0, most=5))
    assert samples.statuses() == {"429": 3, "lost": 2}
    assert (samples.failed, samples.lost, samples.requests_per_second) == (5, 2, 0)
    assert run_here(Load(free_port(), REQUESTS, 1, seconds=5.0)).statuses() == {"refused": 1}
    open_loop = run_here(Load(free_port(), REQUESTS, 1, seconds=0.1, rate=100.0))  # the next may find somebody
    assert open_loop.statuses() == {"refused": len(open_loop.due_s)}


def test_an_answer_that_does_not_come_in_time_is_given_up(run_here: Run) -> None:
    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            time.sleep(3.0)

    with answering(handle) as port:
        samples = run_here(Load(port, REQUESTS, 1, seconds=1.0, most=1, timeout_s=0.1))
    assert samples.statuses() == {"timed_out": 1}
    assert 0.1 < samples.wall_s < 2.5


def test_a_connection_that_the_server_closes_is_opened_again(run_here: Run) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer("200 OK", b"[]", more=b"Connection: close\r\n"))

    with answering(handle) as port:
        samples = run_here(Load(port, REQUESTS, 2, seconds=5.0, most=6))
    assert samples.statuses() == {"200": 6}


def test_a_server_with_tls_is_asked_without_trusting_it(run_here: Run, tmp_path: Path) -> None:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=x",
    ]
    subprocess.run([*command, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inside:
            while inside.recv(65536):
                inside.sendall(answer("200 OK", b"[]"))

    with answering(handle) as port:
        samples = run_here(Load(port, REQUESTS, 2, seconds=5.0, most=10, has_tls=True))
    assert samples.statuses() == {"200": 10}


def test_a_generator_that_dies_is_said() -> None:
    with pytest.raises(PotstillError, match="stopped with code 1 before it started"), running(Load(1, REQUESTS, 1, 1.0, -1.0)):
        pass
    with pytest.raises(PotstillError, match=r"the load generator stopped with code 1$"):
        run(Load(1, (), 1, seconds=1.0))


def test_answers_belong_to_their_requests(run_here: Run) -> None:
    def handle(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            connection.sendall(answer("200 OK", data.partition(b"\r\n\r\n")[2]))  # gives the body back

    with answering(handle) as port:
        samples = run_here(Load(port, REQUESTS, 4, seconds=5.0, most=25))
    assert len(samples.due_s) == 25
    assert [samples.bodies[number] for number in samples.answer] == [b'{"inputs": "%d"}' % (each % 10) for each in range(25)]


def test_the_generator_sleeps_until_there_is_something_to_do(run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that polls takes the processor from the server that it measures."""
    woken, wait = 0, select.select

    def counted(*arguments: Any) -> Any:
        nonlocal woken
        woken += 1
        return wait(*arguments)

    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            time.sleep(0.005)
            connection.sendall(answer("200 OK", b"[]"))

    monkeypatch.setattr("benchmarks.serving.generator.select.select", counted)
    with answering(handle) as port:
        samples = run_here(Load(port, REQUESTS, 4, seconds=30.0, most=100))
    assert samples.statuses() == {"200": 100}
    assert woken <= 100 + samples.wall_s / 0.2 + 1  # an answer, or 0.2 s without one


def test_what_the_generator_takes_is_told_beside_the_samples() -> None:
    nothing, sent_s = np.zeros(101), np.linspace(0.0, 0.1, 101)  # the later ones later, by 1 ms each
    whole = np.zeros(101, dtype=np.int64)
    taken = Samples(nothing, sent_s, nothing, sent_s, whole, whole, (b"",), wall_s=2.0, cpu_s=0.5).generator()
    assert taken == pytest.approx({"us_per_request": 0.5e6 / 101, "processor_share": 0.25, "late_p99_ms": 99.0})


def test_the_recorded_generator_takes_little_beside_a_request() -> None:
    (row,) = [row for row in read_result("serving")["rows"] if row["kind"] == "generator"]
    assert row["us_per_request"] < 150


def test_what_a_server_says_before_it_is_asked_is_no_answer(run_here: Run) -> None:
    taken = 0

    def handle(connection: socket.socket) -> None:
        nonlocal taken
        taken += 1
        if taken == 1:
            connection.sendall(answer("408 Request Timeout", b"", more=b"Connection: close\r\n"))
            return
        while connection.recv(65536):
            connection.sendall(answer("200 OK", b""))

    with answering(handle) as port:
        samples = run_here(Load(port, REQUESTS, 1, seconds=0.6, rate=10.0))
    assert samples.statuses() == {"200": len(samples.due_s)}
    assert taken == 2
