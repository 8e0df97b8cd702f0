"""The application without a socket: other scopes than HTTP, bodies and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, MutableMapping
from typing import Any

import pytest

from serve.errors import Reason, Refusal
from serve.http.asgi import Receive, answer_other_than_http, deadline_of, read_body


def receiving(messages: Iterable[MutableMapping[str, Any]]) -> Receive:
    left = iter(messages)

    async def receive() -> MutableMapping[str, Any]:
        return next(left)

    return receive


def sent_to(scope_type: str, *kinds: str) -> list[str]:
    sent: list[str] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    asyncio.run(answer_other_than_http({"type": scope_type}, receiving({"type": kind} for kind in kinds), send))
    return sent


def test_a_lifespan_is_completed_and_a_websocket_closed() -> None:
    assert sent_to("lifespan", "lifespan.startup", "lifespan.shutdown") == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert sent_to("websocket") == ["websocket.close"]


def body_of(*messages: MutableMapping[str, Any], declared: bytes = b"0", timeout_s: float = 20) -> bytearray:
    headers = {b"content-length": declared, b"expect": b"100-continue"}
    return asyncio.run(read_body(headers, receiving(messages), limit=5, timeout_s=timeout_s))


def test_a_body_is_the_sum_of_its_pieces_up_to_the_limit() -> None:
    pieces = [{"type": "http.request", "body": piece, "more_body": True} for piece in (b"ab", b"", b"cd")]
    assert body_of(*pieces, {"type": "http.request", "body": b"e"}) == b"abcde"
    assert body_of({"type": "http.request"}) == b""


@pytest.mark.parametrize(
    ("messages", "declared", "reason"),
    [
        ([{"type": "http.request", "body": b"abcdef"}], b"0", Reason.TOO_LARGE),
        ([], b"6", Reason.TOO_LARGE),
        ([], b"9" * 16, Reason.TOO_LARGE),
        ([{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}], b"5", Reason.GONE),
    ],
)
def test_a_body_past_the_limit_or_of_a_client_that_left_is_refused(
    messages: list[MutableMapping[str, Any]], declared: bytes, reason: Reason
) -> None:
    with pytest.raises(Refusal) as refused:
        body_of(*messages, declared=declared)
    assert refused.value.reason is reason


def test_a_request_may_shorten_its_deadline_and_not_lengthen_it() -> None:
    assert deadline_of({}, 2000) == 2
    assert deadline_of({b"x-deadline-ms": b"150"}, 2000) == 0.15
    assert deadline_of({b"x-deadline-ms": b"9000"}, 2000) == 2
    for wrong in (b"0", b"-1", b"1.5", b"", b"1" * 10):
        with pytest.raises(Refusal) as refused:
            deadline_of({b"x-deadline-ms": wrong}, 2000)
        assert refused.value.reason is Reason.MALFORMED
