"""The load generator: a process of its own that asks a server over kept-open connections and keeps every sample.

Closed loop: each connection asks again as soon as it has its answer. Open loop: requests are due at times drawn
beforehand (Poisson), and latency counts from when a request was due, also where server or generator were too busy to
start it, so that a slow moment cannot hide what it delayed ("coordinated omission"). What the generator itself was late
is kept beside it. Connections are opened before the clock starts. Knows no protocol but HTTP/1.1: it is given whole
requests. One thread around one epoll, because it shares the processors with what it measures.
"""

from __future__ import annotations

import gc
import json
import re
import select
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SETTLE_S = 0.5
"""Between opening connections and the first request: a load of a thousand clients is not a thousand that come at once."""

LOST, TIMED_OUT, REFUSED = 0, -1, -2
"""In place of an HTTP status: sent but never answered; not answered in time; never sent, for nobody listens."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What to ask, and how fast.

    Attributes:
        port: Port on this machine.
        requests: Whole HTTP/1.1 requests, asked in turn, from the first again after the last.
        connections: Connections kept open; in a closed loop each has one request under way.
        seconds: How long requests are started; those under way are waited for.
        rate: Requests a second of an open loop; None is a closed loop.
        most: Requests after which to stop, whatever the time.
        seed: Seed of the drawn starts.
        timeout_s: When an answer is given up.
        source: Address that the connections come from.
        has_tls: The server expects TLS; its certificate is not checked.
    """

    port: int
    requests: tuple[bytes, ...]
    connections: int
    seconds: float
    rate: float | None = None
    most: int | None = None
    seed: int = 0
    timeout_s: float = 30.0
    source: str = "127.0.0.1"
    has_tls: bool = False

    def to_json(self) -> str:
        """Return it as one line; requests as text, a character a byte."""
        return json.dumps({**self.__dict__, "requests": [request.decode("latin-1") for request in self.requests]})

    @classmethod
    def from_json(cls, line: str) -> Load:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(line)
        return cls(**{**values, "requests": tuple(text.encode("latin-1") for text in values["requests"])})


def take_response(buffer: bytes) -> tuple[int, bytes, bool, int] | None:
    """Return status, body, whether the connection closes after it, and the bytes used; None while it is not whole."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[: end + 2]
    status, close, start = int(head[9:12]), bool(_CLOSE.search(head)), end + 4
    if length := _LENGTH.search(head):
        stop = start + int(length[1])
        return None if len(buffer) < stop else (status, buffer[start:stop], close, stop)
    if not _CHUNKED.search(head):
        return status, b"", close, start
    parts: list[bytes] = []
    while True:
        line = buffer.find(b"\r\n", start)
        size = -1 if line < 0 else int(buffer[start:line].split(b";")[0], 16)
        if size < 0 or len(buffer) < line + 2 + size + 2:
            return None
        start = line + 2 + size + 2
        if not size:
            return status, b"".join(parts), close, start
        parts.append(buffer[line + 2 : line + 2 + size])


class _Connection:
    """One connection; `sample` is the number of the request under way, -1 when idle."""

    __slots__ = ("buffer", "sample", "sock")

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.buffer = b""
        self.sample = -1


class Generator:
    """One run of one load; every list has an entry a request, in the order they were started."""

    def __init__(self, load: Load) -> None:
        self.due_s: list[float] = []
        self.sent_s: list[float] = []
        self.free_s: list[float] = []
        self.ended_s: list[float] = []
        self.status: list[int] = []
        self.answer: list[int] = []
        self.answers: dict[bytes, int] = {b"": 0}
        self._load = load
        self._poll = select.epoll()
        self._by_fd: dict[int, _Connection] = {}
        self._idle = [_Connection() for _ in range(load.connections)]
        self._most = load.most if load.most is not None else sys.maxsize
        self._starts: deque[float] | None = None
        self._stop_s = 0.0
        self._swept_s = 0.0
        self._free_since_s = 0.0
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if load.has_tls else None
        if self._tls is not None:
            self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE

    def run(self) -> tuple[float, float]:
        """Ask until the load is done; return seconds gone and seconds of processor time used."""
        for connection in self._idle:
            self._connect(connection)
        time.sleep(SETTLE_S)
        gc.disable()
        used, began = time.process_time(), time.perf_counter()
        self._stop_s = self._swept_s = began
        self._stop_s += self._load.seconds
        if self._load.rate is not None:
            self._starts = deque(began + drawn_starts(self._load.rate, self._load.seconds, seed=self._load.seed))
        print("started", flush=True)
        while self._start_due() or self._by_fd_busy():
            self._wait()
        return time.perf_counter() - began, time.process_time() - used

    def _by_fd_busy(self) -> bool:
        return len(self._idle) < self._load.connections

    def _start_due(self) -> bool:
        """Start what is due; return whether more will come."""
        now, starts = time.perf_counter(), self._starts
        if starts is None:
            while self._idle and now < self._stop_s and len(self.due_s) < self._most:
                if not self._ask(self._idle.pop(), now):
                    return False
            return now < self._stop_s and len(self.due_s) < self._most
        while starts and starts[0] <= now and self._idle:
            self._ask(self._idle.pop(), starts.popleft())
        return bool(starts)

    def _wait(self) -> None:
        """Sleep until an answer comes or a request is due, and take the answers."""
        now = time.perf_counter()
        until = self._starts[0] if self._starts and self._idle else now + 0.2
        # select counts microseconds, epoll only milliseconds, by which open-loop requests would be late.
        if select.select((self._poll,), (), (), max(0.0, until - now))[0]:
            for fd, _ in self._poll.poll(0):
                self._read(self._by_fd[fd])
        if now - self._swept_s > 1:
            self._swept_s = now
            self._give_up_late_ones(now)

    def _ask(self, connection: _Connection, due_s: float) -> bool:
        """Start a request; return False where nobody listens."""
        number = len(self.due_s)
        request = self._load.requests[number % len(self._load.requests)]
        self.due_s.append(due_s)
        self.free_s.append(max(due_s, self._free_since_s))
        self.sent_s.append(time.perf_counter())
        self.ended_s.append(0.0)
        self.status.append(LOST)
        self.answer.append(0)
        # A connection the server closed while it was idle is replaced, once, as any client does: it looks before it asks.
        asked = self._is_quiet(connection) and self._send(connection, request)
        if asked or (self._connect(connection) and self._send(connection, request)):
            connection.sample = number
            return True
        self._end(connection, number, REFUSED)
        return False

    @staticmethod
    def _is_quiet(connection: _Connection) -> bool:
        """Whether an idle connection is open and has nothing to read."""
        if connection.sock is None:
            return False
        try:
            socket.socket.recv(connection.sock, 1, socket.MSG_PEEK)  # below TLS, which cannot peek
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def _connect(self, connection: _Connection) -> bool:
        self._drop(connection)
        try:
            sock = socket.create_connection(("127.0.0.1", self._load.port), timeout=5, source_address=(self._load.source, 0))
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock)
        except OSError:
            return False
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        connection.sock, connection.buffer = sock, b""
        self._by_fd[sock.fileno()] = connection
        self._poll.register(sock.fileno(), select.EPOLLIN)
        return True

    def _drop(self, connection: _Connection) -> None:
        if connection.sock is not None:
            self._poll.unregister(connection.sock.fileno())
            del self._by_fd[connection.sock.fileno()]
            connection.sock.close()
            connection.sock = None

    def _send(self, connection: _Connection, request: bytes) -> bool:
        if connection.sock is None:
            return False
        try:
            sent = connection.sock.send(request)
            if sent < len(request):
                connection.sock.settimeout(self._load.timeout_s)
                connection.sock.sendall(request[sent:])
                connection.sock.setblocking(False)
        except OSError:
            return False
        return True

    def _read(self, connection: _Connection) -> None:
        if connection.sock is None:
            return
        try:
            data = connection.sock.recv(262_144)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data or connection.sample < 0:  # closed, or words that nobody asked for
            self._drop(connection)
            if connection.sample >= 0:
                self._end(connection, connection.sample, LOST)
            return
        connection.buffer += data
        if connection.sample >= 0 and (found := take_response(connection.buffer)):
            status, body, closes, used = found
            connection.buffer = connection.buffer[used:]
            self.answer[connection.sample] = self.answers.setdefault(body, len(self.answers))
            self._end(connection, connection.sample, status)
            if closes:
                self._drop(connection)

    def _end(self, connection: _Connection, number: int, status: int) -> None:
        self.ended_s[number] = time.perf_counter()
        self.status[number] = status
        connection.sample = -1
        if not self._idle:
            self._free_since_s = self.ended_s[number]
        self._idle.append(connection)

    def _give_up_late_ones(self, now: float) -> None:
        for connection in list(self._by_fd.values()):
            if connection.sample >= 0 and now - self.sent_s[connection.sample] > self._load.timeout_s:
                self._drop(connection)
                self._end(connection, connection.sample, TIMED_OUT)


def drawn_starts(rate: float, seconds: float, *, seed: int) -> np.ndarray:
    """Return the starts of a Poisson process from 0 to `seconds`, in seconds."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds + 10 * (rate * seconds) ** 0.5 + 10)))
    return starts[starts < seconds]


def main(out: Path) -> None:
    """Run the load given as a line on stdin, and write the samples."""
    generator = Generator(Load.from_json(sys.stdin.readline()))
    wall_s, cpu_s = generator.run()
    bodies = list(generator.answers)
    np.savez(
        out,
        due_s=np.array(generator.due_s),
        sent_s=np.array(generator.sent_s),
        free_s=np.array(generator.free_s),
        ended_s=np.array(generator.ended_s),
        status=np.array(generator.status, dtype=np.int32),
        answer=np.array(generator.answer, dtype=np.int64),
        bodies=np.frombuffer(b"".join(bodies), dtype=np.uint8),
        body_ends=np.cumsum([len(body) for body in bodies]),
        spent_s=np.array([wall_s, cpu_s]),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
