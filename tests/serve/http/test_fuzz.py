"""Requests that are nearly right, by the thousand: no 5xx, no hang, no crash, and a right answer afterwards.

The scenario `attacks` sends a hundred thousand.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.attacks.fuzzing import fuzz_server
from distill.bundle import Bundle

REQUESTS = 2_000
CHECKS = (
    "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance,negative_data_rejection"
)


@dataclass
class Process:
    """A server in a process of its own, as users start it."""

    running: subprocess.Popen[bytes]
    port: int
    log: Path

    def answer(self) -> list[object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = json.dumps({"inputs": ["a great fresh film", "the dull awful plot"]})
        with contextlib.closing(connection):
            connection.request("POST", "/", body, {"content-type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200
            answered: list[object] = json.loads(response.read())
        return answered


@pytest.fixture
def process(tiny_student: Bundle, tmp_path: Path) -> Iterator[Process]:
    folder = tmp_path / "tiny"
    folder.symlink_to(tiny_student.path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # No deadline in sight: on a busy machine a 504 is right, and says nothing of the request.
    options = ["--port", str(port), "--drain-s", "0", "--body-timeout-s", "1", "--deadline-ms", "60000"]
    log = tmp_path / "log"
    with log.open("wb") as written:
        command = [sys.executable, "-m", "serve", str(folder), *options]
        running = subprocess.Popen(command, stdout=written, stderr=written)
    made = Process(running, port, log)
    until = time.monotonic() + 60
    while time.monotonic() < until and running.poll() is None:
        try:
            made.answer()
            break
        except OSError:
            time.sleep(0.05)
    yield made
    running.kill()
    running.wait()


def require_well(process: Process, before: list[object]) -> None:
    """Require the same answers as before, an orderly end, and a log without a failure of ours."""
    assert process.answer() == before
    process.running.send_signal(signal.SIGTERM)
    assert process.running.wait(timeout=60) == 0
    log = process.log.read_text(errors="replace")
    assert "Traceback" not in log, log[-4000:]


@pytest.mark.slow
def test_requests_that_are_nearly_right_bring_no_failure(tiny_student: Bundle) -> None:
    row = fuzz_server(tiny_student.path, requests=REQUESTS, seed=5)
    assert row["failures"] == []
    assert row["statuses"]["200"] > REQUESTS / 20  # else they would not be nearly right


@pytest.mark.slow
def test_schemathesis_finds_nothing_against_the_openapi_document(process: Process, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    before = process.answer()
    where = f"http://127.0.0.1:{process.port}/openapi.json"
    options = ["--checks", CHECKS, "--max-examples", "15", "--seed", "5", "--phases", "examples,coverage,fuzzing"]
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", where, *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    require_well(process, before)
