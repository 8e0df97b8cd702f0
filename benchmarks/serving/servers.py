"""Servers as processes: started in a group of their own, asked until ready, watched, and ended with the whole group."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import IO

from benchmarks.harness.environments import python_of
from benchmarks.peers.servers.protocol import ServerPeer, Setting, Start
from distill.machine import available_cpus
from export.measure.children import child
from export.measure.workers import ROOT, PeerError

READY_TIMEOUT_S = 120.0
GRACE_S = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready."""

    port: int
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    has_tls: bool = False

    def log(self) -> str:
        """Return what it has written so far."""
        file = self.said.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")  # its own place in the file stays

    def memory_bytes(self) -> int:
        """Return the resident memory of all its processes."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES for pid in self._alive())

    def cpu_s(self) -> float:
        """Return the processor time its living processes have used."""
        return sum(sum(map(int, _stat_of(pid)[11:13])) / _TICKS for pid in self._alive())

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
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _alive(self) -> list[int]:
        return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and self._is_ours(int(each.name))]

    def _is_ours(self, pid: int) -> bool:
        try:
            return int(_stat_of(pid)[2]) == self.process.pid
        except OSError:
            return False


@contextmanager
def started(
    peer: ServerPeer,
    folder: Path,
    setting: Setting,
    *,
    arguments: tuple[str, ...] = (),
    threads: int | None = None,
) -> Iterator[RunningServer]:
    """Start a server and yield it once it is ready; its whole process group ends with the block.

    Args:
        peer: Which.
        folder: The bundle, or the folder with the stock export.
        setting: One of its candidates.
        arguments: Further words of its command line.
        threads: Processors it may count on; None takes what there are.

    Raises:
        PeerError: Its environment cannot be made, it died, or it was not ready within two minutes.
    """
    python = python_of(peer.name)
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryFile() as said:
        port = free_port()
        start = Start(python, folder.absolute(), port, Path(work), setting, threads or available_cpus())
        with child(
            [*peer.command(start), *arguments],
            grace_s=GRACE_S,
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", **peer.variables},
        ) as process:
            server = RunningServer(port, process, said, peer.has_tls)
            _wait_until_ready(server, peer, said)
            yield server


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a function in a thread while the block runs; it is given an event that is set when the block has ended."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def free_port() -> int:
    """Return the first of three free ports in a row; some servers take more than one."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311
        try:
            for offset in range(3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return port


def wait_for_port(port: int, *, patience_s: float = 20.0) -> None:
    """Return once somebody listens."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.05)
    raise PeerError(f"nobody listens on port {port} after {patience_s:.0f} s")


def _wait_until_ready(server: RunningServer, peer: ServerPeer, said: IO[bytes]) -> None:
    until = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise PeerError(f"{peer.name} stopped with code {server.process.returncode}: {_last_words(said)}")
        try:
            if server.ask("GET", peer.ready_path)[0] == 200:
                return
        except (OSError, HTTPException):
            pass
        time.sleep(0.1)
    raise PeerError(f"{peer.name} was not ready within {READY_TIMEOUT_S:.0f} s: {_last_words(said)}")


def _last_words(said: IO[bytes]) -> str:
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word"


def _stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold spaces: state, parent, group and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
