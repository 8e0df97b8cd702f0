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
from dataclasses import dataclass, field, fields

import numpy as np
from pydantic import TypeAdapter

SETTLE_S = 0.5
"""Between opening connections and the first request: a load of a thousand clients is not a thousand that come at once."""

LOST, TIMED_OUT, REFUSED = 0, -1, -2
"""In place of an HTTP status: sent but never answered; not answered in time; never sent, for nobody listens."""

STARTED = "started\n"
"""What the generator says when its clock starts."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What to ask, and how fast.

    Attributes:
        port: Port on this machine.
        requests: Whole HTTP/1.1 requests, asked in turn, from the first again after the last; none larger than what the
            buffer of a socket takes at once, 2 MB.
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
    most: int = sys.maxsize
    seed: int = 0
    timeout_s: float = 30.0
    source: str = "127.0.0.1"
    has_tls: bool = False


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
    while (line := buffer.find(b"\r\n", start)) >= 0:
        size = int(buffer[start:line].split(b";")[0], 16)
        parts.append(buffer[line + 2 : line + 2 + size])
        start = line + 2 + size + 2
        if not size and len(buffer) >= start:
            return status, b"".join(parts), close, start
    return None


@dataclass(slots=True)
class Sample:
    """One request: when it was due, could be sent and was sent; when it ended, how, and the number of its answer."""

    due_s: float
    free_s: float
    sent_s: float
    ended_s: float = 0.0
    status: int = LOST
    answer: int = 0


@dataclass(slots=True)
class Connection:
    """A connection, which may be closed, and the request that is under way on it."""

    sock: socket.socket = field(default_factory=socket.socket)
    buffer: bytes = b""
    sample: Sample | None = None


class Generator:
    """One run of one load; samples are in the order in which they were started, answers have their numbers."""

    def __init__(self, load: Load) -> None:
        self.samples: list[Sample] = []
        self.answers: dict[bytes, int] = {b"": 0}
        self._load = load
        self._tls = ssl._create_unverified_context() if load.has_tls else None  # noqa: S323
        self._poll = select.epoll()
        self._open: dict[int, Connection] = {}
        self._idle = [Connection() for _ in range(load.connections)]
        self._starts: deque[float] | None = None
        self._stop_s = self._swept_s = self._free_since_s = 0.0

    def run(self) -> dict[str, float]:
        """Ask until the load is done; return seconds gone and seconds of processor time used."""
        for connection in self._idle:
            self._connect(connection)
        time.sleep(SETTLE_S)
        gc.disable()
        used, began = time.process_time(), time.perf_counter()
        self._swept_s, self._stop_s = began, began + self._load.seconds
        if self._load.rate is not None:
            self._starts = deque(began + drawn_starts(self._load.rate, self._load.seconds, seed=self._load.seed))
        print(STARTED, end="", flush=True)
        while self._ask_what_is_due() or len(self._idle) < self._load.connections:
            self._take_what_comes()
        return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - used}

    def _ask_what_is_due(self) -> bool:
        """Ask on idle connections; return whether more will be due."""
        now, starts = time.perf_counter(), self._starts
        if starts is not None:
            while starts and starts[0] <= now and self._idle:
                self._ask(self._idle.pop(), starts.popleft())
            return bool(starts)
        while (is_due := now < self._stop_s and len(self.samples) < self._load.most) and self._idle:
            if not self._ask(self._idle.pop(), now):
                return False
        return is_due

    def _take_what_comes(self) -> None:
        """Sleep until an answer comes or a request is due, take the answers, and give up those that are too late."""
        now = time.perf_counter()
        until = self._starts[0] if self._starts and self._idle else now + 0.2
        # select counts microseconds, epoll only milliseconds, by which open-loop requests would be late.
        if select.select((self._poll,), (), (), max(0.0, until - now))[0]:
            for number, _ in self._poll.poll(0):
                self._read(self._open[number])
        if now - self._swept_s > 1:
            self._swept_s = now
            for connection in list(self._open.values()):
                if connection.sample is not None and now - connection.sample.sent_s > self._load.timeout_s:
                    self._close(connection, TIMED_OUT)

    def _ask(self, connection: Connection, due_s: float) -> bool:
        """Start a request; return False where nobody listens."""
        request = self._load.requests[len(self.samples) % len(self._load.requests)]
        sample = Sample(due_s, free_s=max(due_s, self._free_since_s), sent_s=time.perf_counter())
        self.samples.append(sample)
        # A connection the server closed while it was idle is replaced, once, as any client does: it looks before it asks.
        self._read(connection)
        is_sent = self._send(connection, request) or (self._connect(connection) and self._send(connection, request))
        connection.sample = sample
        if not is_sent:
            self._close(connection, REFUSED)
        return is_sent

    def _connect(self, connection: Connection) -> bool:
        self._close(connection)
        try:
            sock = socket.create_connection(("127.0.0.1", self._load.port), timeout=5, source_address=(self._load.source, 0))
            connection.sock = self._tls.wrap_socket(sock) if self._tls else sock
        except OSError:
            return False
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock.setblocking(False)
        connection.buffer = b""
        self._open[connection.sock.fileno()] = connection
        self._poll.register(connection.sock, select.EPOLLIN)
        return True

    def _close(self, connection: Connection, status: int = LOST) -> None:
        """Close a connection; if a request is under way on it, that ends so."""
        self._open.pop(connection.sock.fileno(), None)
        connection.sock.close()
        if connection.sample is not None:
            self._end(connection, connection.sample, status)

    def _send(self, connection: Connection, request: bytes) -> bool:
        try:
            return connection.sock.send(request) == len(request)
        except OSError:
            return False

    def _read(self, connection: Connection) -> None:
        """Take what has come, if anything: a part of an answer, the end of the connection, or words nobody asked for."""
        try:
            data = connection.sock.recv(262_144)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data or connection.sample is None:
            self._close(connection)
            return
        connection.buffer += data
        if found := take_response(connection.buffer):
            status, body, closes, used = found
            connection.buffer = connection.buffer[used:]
            connection.sample.answer = self.answers.setdefault(body, len(self.answers))
            self._end(connection, connection.sample, status)
            if closes:
                self._close(connection)

    def _end(self, connection: Connection, sample: Sample, status: int) -> None:
        sample.ended_s, sample.status = time.perf_counter(), status
        connection.sample = None
        if not self._idle:
            self._free_since_s = sample.ended_s
        self._idle.append(connection)


def drawn_starts(rate: float, seconds: float, *, seed: int) -> np.ndarray:
    """Return the starts of a Poisson process from 0 to `seconds`, in seconds: uniform, given how many there are."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def main() -> None:
    """Run the load of the standard input, and write the samples to the standard output."""
    generator = Generator(TypeAdapter(Load).validate_json(sys.stdin.read()))
    spent = generator.run()
    columns = {each.name: [getattr(sample, each.name) for sample in generator.samples] for each in fields(Sample)}
    bodies = [body.decode("latin-1") for body in generator.answers]  # a character a byte
    json.dump({"columns": columns, "bodies": bodies, "spent": spent}, sys.stdout)


if __name__ == "__main__":
    main()
