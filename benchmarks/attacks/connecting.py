"""Attacks by connections: herds, floods, half-closes, clients that leave, and requests without end on one connection."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path

from benchmarks.attacks.trials import FLAGS
from benchmarks.attacks.wire import PIECE_BYTES, Seen, Target, ask, is_reset, read_to_end, reset, texts_body, whole

HERD = 600
"""Connections of a herd: half as many again as the server accepts in all."""
ESTABLISHED = "01"


async def idle_herd(target: Target) -> Seen:
    """Open more connections than the server may have, from several addresses; it may not hold more than its limit."""
    return await _herd(target, addresses=6, most=int(FLAGS["--max-connections"]))


async def herd_of_one_address(target: Target) -> Seen:
    """Open them from one address; it may not hold more than its share."""
    return await _herd(target, addresses=1, most=int(FLAGS["--max-connections-per-address"]))


async def _herd(target: Target, *, addresses: int, most: int) -> Seen:
    seen, writers = Seen(), []
    for number in range(HERD):
        with suppress(OSError):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", target.server.port, local_addr=(f"127.0.1.{number % addresses + 1}", 0)
            )
            writers.append(writer)
    seen.connections = len(writers)
    for _ in range(5):
        await asyncio.sleep(target.seconds / 10)
        held = held_by_server(target.server.port)
        if sum(number for address, number in held.items() if address.startswith("127.0.1.")) > most:
            seen.broken[f"more than {most} connections were held"] += 1
    for writer in writers:
        writer.transport.abort()
    return seen


async def full_house(target: Target) -> Seen:
    """Take every place with connections that never ask; each new client must be answered all the same."""
    seen, writers = Seen(), []
    for number in range(int(FLAGS["--max-connections"])):
        with suppress(OSError):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", target.server.port, local_addr=(f"127.0.1.{number % 4 + 1}", 0)
            )
            writers.append(writer)
    seen.add(await ask(target, [whole("GET", "/health/live")], expected=(200,), times=10))
    seen.connections += len(writers)
    for writer in writers:
        writer.transport.abort()
    return seen


def held_by_server(port: int) -> Counter[str]:
    """Return the established connections of a server by the peer's address, from the system's table."""
    held: Counter[str] = Counter()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if state == ESTABLISHED and int(local.partition(":")[2], 16) == port:
            packed = bytes.fromhex(remote.partition(":")[0])[::-1]
            held[".".join(map(str, packed))] += 1
    return held


async def connection_flood(target: Target) -> Seen:
    """Open, ask and close, again and again; each must be answered."""
    seen, until = Seen(), time.monotonic() + target.seconds

    async def one() -> None:
        while time.monotonic() < until:
            reader, writer = await target.connect()
            seen.connections += 1
            writer.write(whole("GET", "/health/live"))
            async with asyncio.timeout(target.patience_s):
                heard = await reader.read(1 << 16)
            if seen.took(heard) != [200]:
                seen.broken["a new connection was not answered"] += 1
            writer.close()

    for failed in await asyncio.gather(*(one() for _ in range(8)), return_exceptions=True):
        if isinstance(failed, OSError):
            seen.broken["a new connection was not answered"] += 1
        elif failed is not None:
            raise failed
    return seen


async def half_closed(target: Target) -> Seen:
    """Close the sending half in the middle of a request; the connection must end."""
    seen = Seen()

    async def one(start: bytes) -> None:
        reader, writer = await target.connect()
        seen.connections += 1
        writer.write(start)
        writer.write_eof()
        heard = asyncio.create_task(read_to_end(reader))
        # Long before any clock of the server: the end itself must end it.
        await asyncio.wait((heard,), timeout=1.0)
        if not heard.done():
            seen.broken["a half-closed connection stayed open"] += 1
            heard.cancel()
        writer.transport.abort()

    await asyncio.gather(*(one(start) for start in (b"", b"GET /", whole("GET", "/nowhere")[:-2]) * 10))
    return seen


async def gone_clients(target: Target) -> Seen:
    """Ask for as many texts as are accepted and reset the connection at once; most of them must never be computed."""
    count = 1024
    request, seen = whole(body=texts_body([" ".join(["a fine film of two hours"] * 5)] * count)), Seen(connections=1)
    before = await asyncio.to_thread(_computed, target)
    _, writer = await target.connect()
    writer.write(request)
    await writer.drain()
    await asyncio.sleep(0.02)  # it is read, and the first of it computed
    reset(writer)
    await asyncio.sleep(target.seconds / 2)
    if await asyncio.to_thread(_computed, target) - before > 0.8 * count:
        seen.broken["most texts of a client that had gone were computed"] += 1
    return seen


def _computed(target: Target) -> float:
    lines = target.server.ask("GET", "/metrics")[1].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("potstill_texts_total"))


async def slow_reader(target: Target) -> Seen:
    """Ask much on one connection and read a few bytes now and then; it must be closed before all is read."""
    seen = Seen()

    async def one() -> None:
        reader, writer = await target.connect()
        seen.connections += 1
        reader._limit = 1024  # type: ignore[attr-defined]  # twice as much is read ahead
        until = time.monotonic() + target.patience_s
        with suppress(OSError):
            writer.write(whole("GET", "/docs") * 1000)
            while time.monotonic() < until and await reader.read(64) and not is_reset(writer):
                await asyncio.sleep(0.1)
        if time.monotonic() >= until:
            seen.broken["a connection was not closed in time"] += 1
        writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(10)))
    return seen


async def pipelined_texts(target: Target) -> Seen:
    """Send large requests one after the other without waiting: the server may not take many more than it answers."""
    request = whole(body=texts_body(["a fine film of two hours"] * 50) + b" " * PIECE_BYTES)
    seen, until = Seen(), time.monotonic() + target.seconds

    async def one() -> None:
        reader, writer = await target.connect()
        seen.connections += 1
        heard = asyncio.create_task(read_to_end(reader))
        with suppress(OSError, TimeoutError):
            for _ in count():
                writer.write(request)
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    await writer.drain()
        writer.transport.abort()
        seen.took(await heard)

    await asyncio.gather(*(one() for _ in range(4)))
    return seen
