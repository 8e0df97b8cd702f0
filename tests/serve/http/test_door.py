"""The door: in an overload a request is refused on its head alone, and the connection stays as good as it was."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from served import Answered, Lengths, Running
from waiting import wait_until

from serve.answering.engine import Engine
from serve.answering.models import ModelSource
from serve.settings import ServeSettings

HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
BODY = b'{"inputs": "a film"}'


@pytest.fixture
def full(serve_sources: Callable[..., Running]) -> Iterator[Callable[..., Running]]:
    """Return a function that starts a server whose only place in the queue is taken while its engine is held."""
    held: list[Lengths] = []
    pool = ThreadPoolExecutor(2)

    def start(environment: dict[str, str] | None = None, *, max_queue: int = 1, **headers: str) -> Running:
        classifier = Lengths()
        held.append(classifier)
        settings = ServeSettings(port=0, drain_s=0, threads=1, max_queue=max_queue, deadline_ms=20_000)
        source = ModelSource("tiny", Path("nowhere"), settings.limits_with({}), lambda _: Engine(classifier, max_length=64))
        server = serve_sources([source], settings, environment)
        pool.submit(server.post, "/predict", {"inputs": "computed"}, **headers)
        assert classifier.has_begun.wait(20)
        pool.submit(server.post, "/predict", {"inputs": "waits"}, **headers)
        batcher = server.app.models["tiny"].batcher
        while not batcher.admission.waiting_texts:
            time.sleep(0.01)
        return server

    yield start
    for classifier in held:
        classifier.may_go.set()
    pool.shutdown()


@contextmanager
def connected(server: Running) -> Iterator[socket.socket]:
    with socket.create_connection(server.address) as client:
        client.settimeout(10)
        yield client


def read(client: socket.socket) -> Answered:
    response = http.client.HTTPResponse(client)
    response.begin()
    return Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def test_a_full_queue_refuses_on_the_head_alone_and_the_connection_goes_on(full: Callable[..., Running]) -> None:
    server = full()
    with connected(server) as client:
        client.sendall(HEAD + b"x-request-id: mine\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        refused = read(client)  # before a byte of the body was sent
        assert (refused.status, refused.headers["x-request-id"], refused.headers["retry-after"]) == (429, "mine", "1")
        assert refused.json == {"error": "the server is busy; try again later", "error_type": "overloaded"}
        assert {"date", "content-type"} <= refused.headers.keys()
        client.sendall(BODY + b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert read(client).json == {"live": True}
    assert (
        'potstill_requests_total{model="tiny",protocol="tei",status="429"} 1.0' in server.ask("GET", "/metrics").body.decode()
    )


def test_refused_requests_that_come_pipelined_are_answered_in_order(full: Callable[..., Running]) -> None:
    whole = HEAD + b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    last = b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    with connected(full()) as client:
        client.sendall(whole + chunked + b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n" + whole + last)
        seen = b"".join(iter(lambda: client.recv(65536), b""))
    statuses = [part[:3] for part in seen.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"429", b"429", b"200", b"429", b"404"]


def test_each_protocol_refuses_in_its_own_words(full: Callable[..., Running]) -> None:
    server = full()
    for path in ("/", "/models/tiny", "/v2/models/tiny/infer"):
        refused = server.post(path, {"inputs": "whatever"})
        assert (refused.status, refused.json.keys()) == (429, {"error"}), path


def test_who_may_not_come_in_is_not_told_that_it_is_busy(full: Callable[..., Running]) -> None:
    server = full({"POTSTILL_TOKENS": "a-long-token"}, authorization="Bearer a-long-token")
    assert server.post("/predict", {"inputs": "a"}).status == 401
    assert server.post("/predict", {"inputs": "a"}, authorization="Bearer a-long-token").status == 429
    assert server.post("/models/other/predict", {"inputs": "a"}, authorization="Bearer a-long-token").status == 404


def test_a_client_finds_room_in_a_queue_that_another_filled(full: Callable[..., Running]) -> None:
    greedy, other = ({"authorization": f"Bearer token-of-{name}"} for name in ("greedy", "other"))
    server = full({"POTSTILL_TOKENS": "token-of-greedy,token-of-other"}, max_queue=2, **greedy)
    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(server.post, "/predict", {"inputs": "second"}, **greedy)
        while server.app.models["tiny"].batcher.admission.waiting_texts < 2:
            time.sleep(0.01)
        assert server.post("/predict", {"inputs": "third"}, **greedy).status == 429
        late = pool.submit(server.post, "/predict", {"inputs": "other"}, **other)
        assert second.result().status == 429  # it made room
        classifier = server.app.models["tiny"].engine.classifier
        assert isinstance(classifier, Lengths)
        classifier.may_go.set()
        assert late.result().status == 200


def test_what_waited_is_answered_when_the_engine_goes_on(full: Callable[..., Running]) -> None:
    server = full()
    assert server.post("/predict", {"inputs": "a"}).status == 429
    classifier = server.app.models["tiny"].engine.classifier
    assert isinstance(classifier, Lengths)
    classifier.may_go.set()
    wait_until(lambda: server.post("/predict", {"inputs": "a film"}).status != 429)
    assert json.loads(server.post("/predict", {"inputs": "a film"}).body) == [{"label": "length", "score": 6.0}]


def test_an_answer_in_one_write_has_no_body_for_head_and_says_when_it_is_the_last(server: Running) -> None:
    with connected(server) as client:
        client.sendall(b"HEAD /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n" + b"GET /health/live HTTP/1.0\r\n\r\n")
        seen = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, rest = seen.partition(b"\r\n\r\n")
    last, _, body = rest.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"\r\ncontent-length: 14\r\n" in head + b"\r\n"
    assert last.startswith(b"HTTP/1.1 200")
    assert b"\r\nconnection: close" in last
    assert b"\r\nconnection: close" not in head
    assert body == b'{"live": true}'
