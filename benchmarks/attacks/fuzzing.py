"""Requests that are nearly right, by the thousand, sent to our server in unkind ways, from one seed."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.servers import SERVERS
from benchmarks.serving.ours import watched
from benchmarks.serving.servers import RunningServer, started

FLAGS = ("--drain-s", "0", "--body-timeout-s", "1", "--deadline-ms", "60000")
"""No deadline in sight: on a busy machine a 504 is right, and says nothing of the request."""
REACHED = frozenset({200, 400, 404, 405, 408, 415, 422})
"""Statuses that must be among the answers: else the requests do not reach what they are about."""
MOST_GROWTH_BYTES = 64 << 20
SILENCE_S = 15.0
"""A connection on which nothing is heard for so long hangs; the server gives a head and a body one second each."""

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n")
TOKENS = (
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b"\xff\xfe",
        b"\xf0\x9f",
        b" ",
        b"\t",
        b'"',
        b"{",
        b"}",
        b"[" * 300,
        b"]",
        b",",
        b":",
        b"\\",
    ),
    *(
        b"\\ud800",
        b"\\u0000",
        b"NaN",
        b"1e999",
        b"-1",
        b"9" * 40,
        b"null",
        b"true",
        b'""',
        b'"inputs":',
        b"%00",
        b"%ff",
        b"/../",
    ),
    *(b"\r\ncontent-length: 5", b"\r\ntransfer-encoding: chunked", b"\r\nexpect: 100-continue", b"\r\nupgrade: h2c"),
    *(b"\r\nupgrade: websocket\r\nconnection: upgrade", b"\r\ninference-header-content-length: 7", b"a" * 5000, b"HTTP/1.1"),
    *(
        b"\r\nconnection: close",
        b"\r\ncontent-encoding: gzip",
        b"\r\nx-request-id: \xe9",
        b"HEAD ",
        b"OPTIONS ",
        b"PRI * HTTP/2.0",
    ),
)


def fuzz_server(bundle: Path, *, requests: int, seed: int) -> dict[str, Any]:
    """Start a server, send it at least so many requests, and return the row: what came back, and why it failed, if so."""
    with tempfile.TemporaryDirectory() as place:
        served = Path(place) / "tiny"  # the name in the requests
        served.symlink_to(bundle.resolve())
        with started(SERVERS["potstill"], served, {}, arguments=FLAGS) as server:
            given, began = _answer(server), time.monotonic()
            with watched(server) as memory:
                outcome = asyncio.run(fuzz(("127.0.0.1", server.port), requests=requests, seed=seed))
            seconds = time.monotonic() - began
            is_same = server.process.poll() is None and _answer(server) == given
            log = server.log()
    row: dict[str, Any] = {
        "kind": "fuzz",
        "name": "requests",
        "tried": outcome.requests,
        "seed": seed,
        "seconds": seconds,
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "server_errors": [repr(content) for content in outcome.failed[:10]],
        "silent": [repr(content) for content in outcome.silent[:10]],
        "refused_connections": outcome.refused,
        "answers_as_before": is_same,
        "tracebacks": log.count("Traceback"),
        "memory_growth_bytes": max(memory) - memory[0] if memory else 0,
    }
    failures = [
        f"{what}: {row[what]}" for what in ("server_errors", "silent", "refused_connections", "tracebacks") if row[what]
    ]
    failures += [] if is_same else ["the server does not answer as before"]
    failures += [f"no answer had the status {status}" for status in sorted(REACHED - outcome.statuses.keys())]
    if row["memory_growth_bytes"] > MOST_GROWTH_BYTES:
        failures.append(f"memory grew by {row['memory_growth_bytes'] / 2**20:.0f} MB")
    return {**row, "survived": not failures, "failures": failures}


def _answer(server: RunningServer) -> tuple[int, bytes]:
    body = json.dumps({"inputs": ["a great fresh film", "the dull awful plot"]}).encode()
    return server.ask("POST", "/", body=body, headers={"content-type": "application/json"})


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """Return a whole request."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *headers]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _oip(tensor: dict[str, object], tail: bytes = b"") -> bytes:
    outputs = [{"name": name, "parameters": {"binary_data": bool(tail)}} for name in ("label", "probabilities", "logits")]
    head = json.dumps({"id": "7", "inputs": [{"name": "text", "datatype": "BYTES", **tensor}], "outputs": outputs}).encode()
    length = (f"inference-header-content-length: {len(head)}",) if tail else ()
    return request("POST", "/v2/models/tiny/infer", head + tail, *length)


def _chunked(body: bytes) -> bytes:
    head = request("POST", "/", b"", "content-type: application/json", "transfer-encoding: chunked")
    parts = [body[start : start + 9] for start in range(0, len(body), 9)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


HUGGING_FACE = json.dumps(
    {"inputs": ["great film", "dull"], "parameters": {"top_k": 1, "function_to_apply": "sigmoid"}}
).encode()
VALID = (
    request("POST", "/", b'{"inputs": "great fresh film"}'),
    request("POST", "/", HUGGING_FACE),
    request("POST", "/models/tiny", HUGGING_FACE, "x-request-id: a-1"),
    _chunked(HUGGING_FACE),
    request("POST", "/predict", b'{"inputs": [["great"], ["dull"]], "truncate": true, "raw_scores": false}'),
    request("POST", "/models/tiny/predict", b'{"inputs": "great", "truncation_direction": "Right"}'),
    _oip({"shape": [2], "data": ["great", "dull"]}),
    _oip({"shape": [1, 1], "parameters": {"binary_data_size": 9}}, b"\x05\0\0\0great"),
    request("POST", "/admin/reload", b'{"model": "tiny"}', "authorization: Bearer nothing"),
    *(request("GET", path) for path in ("/", "/v2", "/v2/models/tiny", "/v2/models/tiny/versions/1/ready", "/health/ready")),
    *(request("GET", path) for path in ("/info", "/metrics", "/openapi.json", "/docs", "/nowhere")),
    request("DELETE", "/"),
)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Change a request in one to four places."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice(_CHANGES)(content, draw)
    return content


def _flip(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) or 1)
    return content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]


def _insert(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.choice(TOKENS) + content[place:]


def _cut(content: bytes, draw: random.Random) -> bytes:
    first, last = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:first] + content[min(last, first + draw.choice((1, 3, 40))) :]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    first, last = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:last] + content[first:last] * draw.choice((1, 2, 20)) + content[last:]


def _number(content: bytes, draw: random.Random) -> bytes:
    found = list(re.finditer(rb"\d+", content))
    if not found:
        return content
    place = draw.choice(found)
    return (
        content[: place.start()]
        + draw.choice((b"0", b"-1", b"2", b"99999999999999999999", b"1.5", b"1e9"))
        + content[place.end() :]
    )


def _splice(content: bytes, draw: random.Random) -> bytes:
    other = draw.choice(VALID)
    return content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other)) :]


def _in_body(content: bytes, draw: random.Random) -> bytes:
    """Change the body and say its right length, so that the protocols' own readers see it."""
    head, _, body = content.partition(b"\r\n\r\n")
    body = draw.choice((_flip, _insert, _cut, _repeat, _number))(body, draw)
    return re.sub(rb"content-length: \d+", b"content-length: %d" % len(body), head) + b"\r\n\r\n" + body


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_flip, _insert, _cut, _repeat, _number, _splice),
    *(_in_body, _in_body, _in_body, _in_body),
)


@dataclass
class Outcome:
    """What came of many requests.

    Attributes:
        requests: How many were sent.
        statuses: How often each came back.
        silent: What was sent where nothing came, and the connection stayed open.
        failed: What was sent where a status of 500 or more came.
        refused: Connections that could not be made.
    """

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    silent: list[bytes] = field(default_factory=list)
    failed: list[bytes] = field(default_factory=list)
    refused: int = 0


async def fuzz(address: tuple[str, int], *, requests: int, seed: int, connections: int = 32) -> Outcome:
    """Send at least so many requests, at most `connections` at a time."""
    outcome, gate, draw = Outcome(), asyncio.Semaphore(connections), random.Random(seed)  # noqa: S311
    tasks = set()
    while outcome.requests < requests:
        await gate.acquire()
        parts = [
            draw.choice(VALID) if draw.random() < 0.1 else mutated(draw.choice(VALID), draw)
            for _ in range(draw.choice((1, 1, 1, 3)))
        ]
        outcome.requests += len(parts)
        task = asyncio.create_task(_one(address, b"".join(parts), draw.choice(WAYS), random.Random(draw.random()), outcome))  # noqa: S311
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: gate.release())
    await asyncio.gather(*tasks)
    return outcome


WAYS = ("whole", "whole", "whole", "pieces", "slowly", "half-closed", "truncated", "truncated", "reset")


async def _one(address: tuple[str, int], content: bytes, way: str, draw: random.Random, outcome: Outcome) -> None:
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), SILENCE_S)
    except (OSError, TimeoutError):
        outcome.refused += 1
        return
    try:
        await _send(writer, content, way, draw)
        if way == "reset":  # an RST in place of an orderly end
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        heard = await _heard(reader)
    except OSError:
        return  # the server closed while we were sending: it may
    except TimeoutError:
        outcome.silent.append(content)
        return
    finally:
        writer.transport.abort() if way == "reset" else writer.close()
    statuses = [int(status) for status in STATUS.findall(heard)]
    outcome.statuses.update(statuses)
    if any(status >= 500 for status in statuses):
        outcome.failed.append(content)


async def _send(writer: asyncio.StreamWriter, content: bytes, way: str, draw: random.Random) -> None:
    if way == "truncated":
        content = content[: draw.randrange(len(content) + 1)]
    size = {"pieces": 17 + len(content) // 20, "slowly": 1 + len(content) // 5}.get(way, len(content) or 1)
    for start in range(0, len(content), size):
        writer.write(content[start : start + size])
        await writer.drain()
        if way in ("pieces", "slowly"):
            await asyncio.sleep(0.03 if way == "slowly" else 0)
    if way == "half-closed":
        writer.write_eof()


async def _heard(reader: asyncio.StreamReader) -> bytes:
    """Read until the other side closes, or a whole head has come and then nothing for a moment."""
    heard = b""
    while True:
        patience = 0.05 if b"\r\n\r\n" in heard else SILENCE_S
        try:
            part = await asyncio.wait_for(reader.read(65536), patience)
        except TimeoutError:
            if b"\r\n\r\n" in heard:
                return heard
            raise
        if not part:
            return heard
        heard += part
