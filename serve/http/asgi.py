"""ASGI in terms of this server, for other servers that run the application, such as Ray Serve: reading bodies within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from serve.errors import Reason, Refusal
from serve.http.protocols.base import Headers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DISCARD_S = 1.0


async def read_body(headers: Headers, receive: Receive, *, limit: int, timeout_s: float) -> bytearray:
    """Return the body of a request.

    Raises:
        Refusal: It is larger than `limit` bytes, did not arrive in `timeout_s`, or the client disconnected.
    """
    declared = headers.get(b"content-length", b"0")
    is_too_large = len(declared) > 15 or (declared.isdigit() and int(declared) > limit)
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(timeout_s):
            while more and not is_too_large:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(Reason.GONE, "the client disconnected")
                body += message.get("body", b"")
                is_too_large, more = len(body) > limit, message.get("more_body", False)
    except TimeoutError:
        raise Refusal(Reason.TOO_SLOW, "the body did not arrive in time") from None
    if is_too_large:
        if b"expect" not in headers:
            await _discard(receive)
        raise Refusal(Reason.TOO_LARGE, f"the body is larger than {limit} bytes")
    return body


async def _discard(receive: Receive) -> None:
    """Read on for a moment: a client whose connection closes while it sends sees a reset instead of the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_S):
            while (await receive()).get("more_body"):
                pass


def deadline_of(headers: Headers, longest_ms: int) -> float:
    """Return the seconds a request may take: `x-deadline-ms`, at most `longest_ms`."""
    given = headers.get(b"x-deadline-ms")
    if given is None:
        return longest_ms / 1000
    if not given.isdigit() or len(given) > 9 or int(given) == 0:
        raise Refusal(Reason.MALFORMED, "x-deadline-ms must be a positive number of milliseconds")
    return min(int(given), longest_ms) / 1000


async def answer_other_than_http(scope: Scope, receive: Receive, send: Send) -> None:
    """Close a websocket; complete a lifespan, which has nothing to start: the models are already open."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    for _ in ("startup", "shutdown"):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
