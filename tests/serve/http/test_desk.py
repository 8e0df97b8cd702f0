"""Large bodies are read beside the event loop, one at a time, clients in turn."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable

import pytest
from served import Running

from serve.errors import Reason, Refusal
from serve.http.desk import LARGE_BYTES, Desk


def test_small_bodies_are_read_at_once_and_large_ones_in_another_thread() -> None:
    async def main() -> None:
        desk, here = Desk(), threading.current_thread()
        assert await desk.read(threading.current_thread, client="a", size=LARGE_BYTES - 1) is here
        assert await desk.read(threading.current_thread, client="a", size=LARGE_BYTES) is not here
        desk.close()

    asyncio.run(main())


def test_a_client_with_many_large_bodies_delays_another_by_one() -> None:
    async def main() -> None:
        desk, order, may_go = Desk(), list[str](), threading.Event()

        def read(name: str) -> None:
            assert may_go.wait(20)
            order.append(name)

        greedy = [asyncio.create_task(desk.read(lambda: read("greedy"), client="greedy", size=2**21)) for _ in range(9)]
        await asyncio.sleep(0)
        other = asyncio.create_task(desk.read(lambda: read("other"), client="other", size=2**21))
        await asyncio.sleep(0)
        small = asyncio.create_task(desk.read(lambda: order.append("small"), client="greedy", size=9))
        await small
        may_go.set()
        await asyncio.gather(other, *greedy)
        assert order[0] == "small"
        assert order.index("other") <= 3  # the small one, the one that was being read, one turn
        desk.close()

    asyncio.run(main())


def test_a_body_that_is_refused_does_not_keep_the_next_waiting() -> None:
    async def main() -> None:
        def refuse() -> None:
            raise Refusal(Reason.MALFORMED, "no")

        desk = Desk()
        bad = [asyncio.create_task(desk.read(refuse, client="a", size=2**21)) for _ in range(3)]
        good = asyncio.create_task(desk.read(lambda: "read", client="a", size=2**21))
        assert await asyncio.wait_for(good, 20) == "read"
        for task in bad:
            with pytest.raises(Refusal):
                await task
        desk.close()

    asyncio.run(main())


def test_a_server_answers_and_refuses_large_bodies_as_small_ones(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle()
    answered = server.post("/predict", {"inputs": [["great film"]] + [["great " * 200]] * 99, "truncate": True})
    assert len(json.dumps([["great " * 200]] * 99)) > LARGE_BYTES
    assert answered.status == 200
    assert (len(answered.json), answered.headers["x-truncated-texts"]) == (100, "99")
    bad = b'{"inputs": "' + b"x" * LARGE_BYTES
    assert server.ask("POST", "/predict", bad, content_type="application/json").status == 400
