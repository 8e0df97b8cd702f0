"""What most attacks are made of: streams without end, connections that are held, single messages, floods.

Each returns what it saw, and which promise of the server was broken. All of it is bounded in bytes, connections and time.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.serving.generator import take_response
from benchmarks.serving.servers import RunningServer

HOST = "127.0.0.1"
MOST_BYTES = 96 << 20
"""Sent by one attack, at most; more than the memory that the server may take."""
PIECE_BYTES = 1 << 16
TOKEN = "an-honest-token-of-32-characters"  # noqa: S105
ADMIN_TOKEN = "an-admin-token-of-32-characters"  # noqa: S105


@dataclass(frozen=True)
class Target:
    """The server under attack.

    Attributes:
        server: Its process.
        name: Name of its model.
        folder: Its bundle.
        work: A folder for what an attack plants.
        seconds: How long a flood lasts.
        patience_s: Seconds after which a connection that owes something must be closed: the server's limit and some room.
        has_tls: It expects TLS.
        removed: The guard that it runs without, if any.
    """

    server: RunningServer
    name: str
    folder: Path
    work: Path
    seconds: float
    patience_s: float
    has_tls: bool = False
    removed: str | None = None

    def program(self, module: str) -> list[str]:
        """Return the words that run a module of ours with the guards of the server; see `program`."""
        return program(module, self.removed)

    async def connect(self, *, plain: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, by TLS where the server expects it."""
        context = None if plain or not self.has_tls else trusting()
        async with asyncio.timeout(self.patience_s):
            return await asyncio.open_connection(HOST, self.server.port, ssl=context)


def program(module: str, removed: str | None) -> list[str]:
    """Return the words, after `python -m`, that run a module of ours with all its guards, or without one."""
    return [module] if removed is None else ["benchmarks.attacks.guards", removed, module]


def trusting() -> ssl.SSLContext:
    """Return a TLS context for a server with a certificate of its own making."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@dataclass
class Seen:
    """What an attack saw.

    Attributes:
        statuses: Of the answers that it read.
        broken: Promises that the server broke, how often.
        connections: How many it opened.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    connections: int = 0

    def add(self, other: Seen) -> None:
        """Add what another round saw."""
        self.statuses += other.statuses
        self.broken += other.broken
        self.connections += other.connections

    def took(self, heard: bytes) -> list[int]:
        """Count the answers in some bytes and return their statuses."""
        found: list[int] = []
        while part := take_response(heard):
            found.append(part[0])
            heard = heard[part[3] :]
        self.statuses.update(found)
        return found


def head(method: str = "POST", path: str = "/predict", *lines: str) -> bytes:
    """Return the start of a head, without its end."""
    common = () if any(line.lower().startswith("host:") for line in lines) else ("host: localhost",)
    kind = ("content-type: application/json",) if method == "POST" else ()
    return "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", *common, *kind, *lines)).encode("latin-1")


def whole(method: str = "POST", path: str = "/predict", *lines: str, body: bytes = b"") -> bytes:
    """Return a whole request."""
    return head(method, path, *lines, *([f"content-length: {len(body)}"] if body else [])) + b"\r\n" + body


def texts_body(texts: Sequence[Any]) -> bytes:
    """Return the body of a request for texts or pairs."""
    return json.dumps({"inputs": [text if isinstance(text, list) else [text] for text in texts], "truncate": True}).encode()


async def stream(target: Target, start: bytes, piece: bytes, *, connections: int = 2, most_bytes: int = MOST_BYTES) -> Seen:
    """Send something without end on each connection, until it is closed; it must be, within the server's patience.

    Args:
        target: The server.
        start: Sent first.
        piece: Sent again and again: fast up to `most_bytes` in all, then slowly.
        connections: At once.
        most_bytes: In all.
    """
    seen = Seen()
    piece *= max(1, PIECE_BYTES // len(piece))

    async def one() -> None:
        reader, writer = await target.connect()
        seen.connections += 1
        heard = asyncio.create_task(read_to_end(reader))
        sent, until = 0, time.monotonic() + target.patience_s
        with suppress(OSError):
            writer.write(start)
            while not heard.done() and time.monotonic() < until:
                writer.write(piece if sent < most_bytes / connections else piece[:16])
                await _drained(writer, until)
                if sent >= most_bytes / connections:
                    await asyncio.sleep(0.1)
                sent += len(piece)
        await asyncio.wait((heard,), timeout=max(0.1, until - time.monotonic()))
        await _note_end(seen, heard, writer)

    await _all([one() for _ in range(connections)])
    return seen


async def hold(
    target: Target,
    start: bytes,
    *,
    drip: bytes = b"",
    connections: int = 20,
    reads: bool = True,
    drip_s: float = 0.3,
    is_plain: bool = False,
) -> Seen:
    """Open connections, send a start and then drops, or nothing; each must be closed within the server's patience.

    Args:
        target: The server.
        start: Sent first.
        drip: Sent every `drip_s` seconds.
        connections: At once.
        reads: Whether the client reads the answers; one that does not finds out by sending.
        drip_s: Between two drops.
        is_plain: No TLS, even where the server expects it.
    """
    seen = Seen()

    async def one() -> None:
        reader, writer = await target.connect(plain=is_plain)
        seen.connections += 1
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        heard = asyncio.create_task(read_to_end(reader))
        until = time.monotonic() + target.patience_s
        with suppress(OSError):
            writer.write(start)
            while not heard.done() and time.monotonic() < until and (reads or not is_reset(writer)):
                await asyncio.wait((heard,), timeout=drip_s)
                if drip:
                    writer.write(drip)
                    await _drained(writer, until)
        if not reads and is_reset(writer):
            heard.cancel()
            writer.transport.abort()
            return
        await _note_end(seen, heard, writer)

    await _all([one() for _ in range(connections)])
    return seen


async def ask(
    target: Target,
    messages: Sequence[bytes],
    *,
    expected: Sequence[int] | None = None,
    allowed: Sequence[int] = (),
    times: int = 1,
    first_s: float = 5.0,
) -> Seen:
    """Send messages, each on a connection of its own, and judge the statuses of the answers.

    Args:
        target: The server.
        messages: One or more requests each, in any shape.
        expected: The statuses that must come, in this order.
        allowed: Or: statuses that may come, at least one.
        times: How often.
        first_s: How long the first byte of an answer may take.
    """
    seen = Seen()
    for message in tuple(messages) * times:
        reader, writer = await target.connect()
        seen.connections += 1
        with suppress(OSError):
            writer.write(message)
            async with asyncio.timeout(target.patience_s):
                await writer.drain()
        found = seen.took(await read_until_quiet(reader, first_s=first_s))
        writer.transport.abort()
        if expected is not None and found != list(expected):
            seen.broken[f"answered {found}, not {list(expected)}"] += 1
        elif allowed and not (found and set(found) <= set(allowed)):
            seen.broken[f"answered {found}, not one of {list(allowed)}"] += 1
    return seen


async def flood(
    target: Target,
    requests: Sequence[bytes],
    *,
    connections: int = 24,
    allowed: Sequence[int] = (200, 429, 503, 504),
    pause_s: float = 0.0,
) -> Seen:
    """Ask in closed loops for as long as a flood lasts; only allowed statuses may come.

    Args:
        target: The server.
        requests: In turn.
        connections: Loops at once, each on one connection.
        allowed: Statuses.
        pause_s: Between an answer and the next request of a connection.
    """
    seen, until = Seen(), time.monotonic() + target.seconds

    async def one(number: int) -> None:
        reader, writer = await target.connect()
        seen.connections += 1
        buffer = b""
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            while time.monotonic() < until:
                writer.write(requests[number % len(requests)])
                number += 1
                while not (found := take_response(buffer)):
                    async with asyncio.timeout(target.patience_s):
                        part = await reader.read(1 << 18)
                    if not part:
                        return
                    buffer += part
                seen.statuses[found[0]] += 1
                if found[0] not in allowed:
                    seen.broken[f"answered {found[0]}, not one of {list(allowed)}"] += 1
                buffer = buffer[found[3] :]
                await asyncio.sleep(pause_s)
        writer.transport.abort()

    await _all([one(number) for number in range(connections)])
    return seen


def asks(*messages: bytes, **how: Any) -> Callable[[Target], Awaitable[Seen]]:
    """Return an attack by single messages; see `ask`."""
    return partial(ask, messages=messages, **how)


def floods(*requests: bytes, **how: Any) -> Callable[[Target], Awaitable[Seen]]:
    """Return an attack by requests in closed loops; see `flood`."""
    return partial(flood, requests=requests, **how)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Return the first 64 KB until the connection ends; the rest is read and dropped."""
    heard = b""
    with suppress(OSError):
        while part := await reader.read(1 << 16):
            heard = heard if len(heard) > 1 << 16 else heard + part
    return heard


async def read_until_quiet(reader: asyncio.StreamReader, *, first_s: float, quiet_s: float = 0.15) -> bytes:
    """Return what comes until the connection ends or nothing has come for a moment."""
    heard = b""
    with suppress(OSError, TimeoutError):
        while True:
            async with asyncio.timeout(quiet_s if heard else first_s):
                part = await reader.read(1 << 18)
            if not part:
                break
            heard += part
    return heard


def is_reset(writer: asyncio.StreamWriter) -> bool:
    """Whether the peer has closed or reset a connection, seen without reading from it."""
    sock: socket.socket = writer.get_extra_info("socket")
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] if hasattr(socket, "TCP_INFO") else 1
    return state != 1  # ESTABLISHED


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _drained(writer: asyncio.StreamWriter, until: float) -> None:
    """Wait for the system to take what was written, as long as that makes sense."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            await writer.drain()


async def _note_end(seen: Seen, heard: asyncio.Task[bytes], writer: asyncio.StreamWriter) -> None:
    if heard.done():
        seen.took(heard.result())
    else:
        seen.broken["a connection was not closed in time"] += 1
        heard.cancel()
    writer.transport.abort()


async def _all(tasks: Sequence[Any]) -> None:
    """Run at once; a connection that cannot be made or is closed is the server's right."""
    for failed in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(failed, BaseException) and not isinstance(failed, OSError):  # a TimeoutError is one
            raise failed
