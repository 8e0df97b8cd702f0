"""Servers as processes: started in a group of their own, asked until ready, watched, and ended with the whole group."""

from __future__ import annotations

import os
import random
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

import psutil

from benchmarks.harness.environments import python_of
from benchmarks.peers.servers.protocol import ServerPeer, Setting, Start
from export.measure.children import child
from export.measure.protocol import memory_of
from export.measure.workers import ROOT, PeerError, last_word

READY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready."""

    port: int
    process: subprocess.Popen[bytes]
    said: Path
    has_tls: bool = False

    def log(self) -> str:
        """Return what it has written so far."""
        return self.said.read_text(errors="replace")

    def memory_bytes(self) -> int:
        """Return the resident memory of all its processes."""
        return memory_of([self.process.pid])["rss_bytes"] or 0

    def cpu_s(self) -> float:
        """Return the processor time its living processes have used."""
        first = psutil.Process(self.process.pid)
        times = [each.cpu_times() for each in (first, *first.children(recursive=True))]
        return float(sum(each.user + each.system for each in times))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its first process."""
        self.process.send_signal(number)

    def ask(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of one request on a connection of its own."""
        connection = (
            HTTPSConnection("127.0.0.1", self.port, timeout=60, context=ssl._create_unverified_context())  # noqa: S323
            if self.has_tls
            else HTTPConnection("127.0.0.1", self.port, timeout=60)
        )
        with closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()


@contextmanager
def started(peer: ServerPeer, folder: Path, setting: Setting, *, arguments: tuple[str, ...] = ()) -> Iterator[RunningServer]:
    """Start a server and yield it once it is ready; its whole process group ends with the block.

    Args:
        peer: Which.
        folder: The bundle, or the folder with the stock export.
        setting: One of its candidates.
        arguments: Further words of its command line.

    Raises:
        PeerError: Its environment cannot be made, it died, or it was not ready within two minutes.
    """
    with tempfile.TemporaryDirectory() as work, tempfile.NamedTemporaryFile() as said:
        start = Start(python_of(peer.name), folder.absolute(), free_port(), Path(work), setting)
        with child(
            [*peer.command(start), *arguments],
            grace_s=5.0,
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", **peer.variables},
        ) as process:
            server = RunningServer(start.port, process, Path(said.name), peer.has_tls)
            _wait_until_ready(server, peer)
            yield server


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a function in a thread while the block runs; it is given an event that is set when the block has ended."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, stop)
        try:
            yield
        finally:
            stop.set()
    working.result()  # raises what the function raised


def free_port() -> int:
    """Return the first of three free ports in a row; some servers take more than one."""
    taken = {each.laddr.port for each in psutil.net_connections("tcp")}
    return random.choice([port for port in range(20_000, 30_000) if taken.isdisjoint(range(port, port + 3))])  # noqa: S311


def _wait_until_ready(server: RunningServer, peer: ServerPeer) -> None:
    until = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < until:
        if (code := server.process.poll()) is not None:
            raise PeerError(f"{peer.name} stopped with code {code}: {last_word(server.log())}")
        with suppress(OSError, HTTPException):
            if server.ask("GET", peer.ready_path)[0] == 200:
                return
        time.sleep(0.1)
    raise PeerError(f"{peer.name} was not ready within {READY_TIMEOUT_S:.0f} s: {last_word(server.log())}")
