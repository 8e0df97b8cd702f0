"""What is not a well-formed request of its protocol gets that protocol's error, with a 4xx; then the server still answers."""

from __future__ import annotations

import json
import logging
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from served import Answered, Running
from waiting import wait_until

from serve.http.connection import Connection

JSON = "application/json"
DEEP = b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[1]",
    "a number": b'{"inputs": 1}',
    "null": b'{"inputs": null}',
    "NaN": b'{"inputs": NaN}',
    "an infinite top_k": b'{"inputs": "a", "parameters": {"top_k": 1e999}, "raw_scores": Infinity}',
    "lone surrogate": b'{"inputs": "\\ud800"}',
    "bad UTF-8": b'{"inputs": "\xff\xfe"}',
    "UTF-16": '{"inputs": "a"}'.encode("utf-16"),
    "deep": DEEP,
    "a name twice": b'{"inputs": "a", "inputs": "b"}',
    "a name twice, escaped": b'{"inputs": "a", "\\u0069nputs": "b"}',
    "huge number": b'{"inputs": ' + b"9" * 10_000 + b"}",
    "empty list": b'{"inputs": []}',
    "empty text": b'{"inputs": ""}',
    "empty among others": b'{"inputs": [["a"], [""]]}',
    "10,000 texts": json.dumps({"inputs": [["a"]] * 10_000}).encode(),
    "trailing": b'{"inputs": "a"} x',
}
OIP_TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
OIP_CHANGES: dict[str, dict[str, object]] = {
    "datatype": {"datatype": "FP32"},
    "name": {"name": "other"},
    "shape": {"shape": [2]},
    "three axes": {"shape": [1, 1, 1]},
    "negative": {"shape": [-1]},
    "huge shape": {"shape": [10**30]},
    "numbers": {"data": [1]},
    "no data": {"data": None},
    "both": {"parameters": {"binary_data_size": 3}},
    "nothing in it": {"shape": [0], "data": []},
    "empty text": {"data": [""]},
}


def is_error_of(path: str, answered: Answered) -> bool:
    keys = {"error", "error_type"} if path == "/predict" else {"error"}
    return 400 <= answered.status < 500 and answered.json.keys() == keys


@pytest.mark.parametrize("path", ["/", "/predict", "/v2/models/tiny/infer"])
def test_what_is_not_well_formed_gets_the_protocols_error(server: Running, path: str) -> None:
    for name, body in BODIES.items():
        answered = server.ask("POST", path, body, content_type=JSON)
        assert is_error_of(path, answered), (name, answered)
    assert server.post("/", {"inputs": "great"}).status == 200


def test_a_wrong_tensor_is_400(server: Running) -> None:
    for name, change in OIP_CHANGES.items():
        answered = server.post("/v2/models/tiny/infer", {"inputs": [{**OIP_TENSOR, **change}]})
        assert (answered.status, list(answered.json)) == (400, ["error"]), (name, answered)
    twice = {"inputs": [OIP_TENSOR], "outputs": [{"name": "label"}, {"name": "label"}]}
    assert server.post("/v2/models/tiny/infer", twice).status == 400


def test_binary_tensors_that_lie_are_400(server: Running) -> None:
    def ask(tail: bytes, size: int, header: str | None = None) -> int:
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
        head = json.dumps({"inputs": [tensor]}).encode()
        length = header or str(len(head))
        return server.ask("POST", "/v2/models/tiny/infer", head + tail, inference_header_content_length=length).status

    assert ask(b"\x05\0\0\0great", 9) == 200
    for tail, size in [
        (b"\xff\xff\xff\xffgreat", 9),
        (b"\x05\0", 2),
        (b"\x01\0\0\0\xff", 5),
        (b"\x05\0\0\0great", 8),
        (b"", 0),
    ]:
        assert ask(tail, size) == 400, tail
    for header in ("-1", "99999", "x", "9" * 50):
        assert ask(b"\x05\0\0\0great", 9, header) == 400, header


def test_content_types(server: Running) -> None:
    body = b'{"inputs": "great"}'
    assert server.ask("POST", "/", body, content_type="text/plain").status == 415
    assert server.ask("POST", "/", body).status == 415
    assert server.ask("POST", "/", body, content_type=JSON, content_encoding="gzip").status == 415
    assert server.ask("POST", "/", body, content_type="application/json; charset=utf-8").status == 200


def test_unknown_places_and_methods(server: Running) -> None:
    assert server.ask("GET", "/nowhere").status == 404
    assert server.ask("DELETE", "/").status == 405
    assert server.post("/v2/models/other/infer", {"inputs": [OIP_TENSOR]}).status == 404
    assert server.post("/v2/models/tiny/versions/2/infer", {"inputs": [OIP_TENSOR]}).status == 404


def test_bodies_past_the_limit_are_413_while_reading_chunked_ones_too(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(max_body_bytes=1000)
    body = json.dumps({"inputs": "a" * 2000}).encode()
    assert server.ask("POST", "/", body, content_type=JSON).status == 413

    def chunks() -> Iterator[bytes]:
        yield from (body[start : start + 100] for start in range(0, len(body), 100))

    assert server.ask("POST", "/", chunks(), content_type=JSON).status == 413  # type: ignore[arg-type]
    with socket.create_connection(server.address) as client:  # says ten gigabytes, sends none
        client.sendall(
            b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10000000000\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_texts_past_the_limits_are_422(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(max_texts=2, max_text_chars=10, long_texts="refuse")
    assert server.post("/", {"inputs": ["a"] * 3}).status == 422
    assert server.post("/", {"inputs": "a" * 11}).status == 422
    assert server.post("/", {"inputs": "a" * 10}).status == 200


def test_long_texts_are_refused_where_the_server_says_so(serve_bundle: Callable[..., Running]) -> None:
    long = " ".join(["great"] * 31)  # and two special tokens: one more than 32
    assert serve_bundle(long_texts="refuse").post("/", {"inputs": long}).status == 422
    assert serve_bundle().post("/", {"inputs": long}).headers["x-truncated-texts"] == "1"


def test_slow_heads_and_slow_bodies_are_ended(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(body_timeout_s=0.5)
    head = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n"
    for start in (head, head + b"\r\n" + b'{"inputs":'):
        with socket.create_connection(server.address) as client:
            client.settimeout(60)
            client.sendall(start)
            assert client.recv(100).startswith(b"HTTP/1.1 408")


def seem_idle(server: Running, seconds: float) -> None:
    """Let the only connection of a server seem idle for some seconds, and let the server look at it."""
    wait_until(lambda: server.server.server_state.connections)
    (connection,) = server.server.server_state.connections
    assert isinstance(connection, Connection)
    assert connection.waits_since is not None
    connection.waits_since -= seconds
    loop, is_checked = connection.loop, threading.Event()
    loop.call_soon_threadsafe(lambda: (connection.close_if_late(), is_checked.set()))
    assert is_checked.wait(60)


def test_a_connection_that_has_not_asked_yet_is_kept_as_long_as_an_idle_one_and_told_nothing(server: Running) -> None:
    with socket.create_connection(server.address) as client:
        client.settimeout(60)
        seem_idle(server, 40)  # a 408 sent meanwhile would be read as the answer to what is asked now
        client.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert b"".join(iter(lambda: client.recv(1000), b"")).startswith(b"HTTP/1.1 200")


def test_a_connection_that_never_asks_is_closed_without_an_answer(server: Running) -> None:
    with socket.create_connection(server.address) as client:
        client.settimeout(60)
        seem_idle(server, 80)
        assert client.recv(100) == b""


def test_a_head_that_is_too_large_is_431(server: Running) -> None:
    with socket.create_connection(server.address) as client:
        client.settimeout(10)
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"a" * 100_000 + b"\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 431")


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    body = b'{"inputs": "great"}'
    infer = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    with socket.create_connection(server.address) as client:
        client.settimeout(10)
        client.sendall(
            infer
            + b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n"
            + infer
            + b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        seen = b"".join(iter(lambda: client.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", seen) == [b"200", b"404", b"200", b"200"]


def test_a_half_closed_connection_does_not_hang_the_server(server: Running) -> None:
    for start in (b"", b"POST / HT", b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n12"):
        with socket.create_connection(server.address) as client:
            client.settimeout(10)
            client.sendall(start)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass
    assert server.post("/", {"inputs": "great"}).status == 200


def test_pipelined_requests_of_a_client_that_left_log_nothing(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"inputs": "great"}'
    infer = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    for _ in range(20):
        with socket.create_connection(server.address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
            client.sendall(infer * 5)
    assert server.post("/", {"inputs": "great"}).status == 200
    assert not [record.message for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_pair_where_the_model_takes_none_is_its_own_requests_error(server: Running) -> None:
    # The tiny tokenizer marks the second text by token types, which our graphs do not take.
    assert server.post("/", {"inputs": {"text": "great", "text_pair": "film"}}).status == 422
    assert server.post("/predict", {"inputs": ["great", "film"]}).status == 422


def test_errors_hold_no_text_and_no_exception(server: Running) -> None:
    secret = "opensesame"
    for body in (
        {"inputs": {secret: 1}},
        {"inputs": "a", "parameters": {secret: 1}},
        {"inputs": "a", "parameters": {"function_to_apply": secret}},
    ):
        assert secret not in server.post("/", body).body.decode()
