"""What one client may send, hold open and leave unread: bytes, time and connections have bounds on every route."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from served import Lengths, Running
from waiting import wait_until

from distill.errors import SettingsError
from serve.answering.engine import Engine
from serve.answering.models import ModelSource
from serve.http.connection import CHUNK_BYTES, FEW_CHUNKS, MAX_HEAD_BYTES, MAX_HEADERS, MAX_UNSENT_BYTES, Connection
from serve.http.crowd import READ_BYTES, address_of
from serve.http.server import OTHER_FILES, Server, allow_open_files
from serve.settings import ServeSettings

LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@contextmanager
def connected(server: Running, *, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection(server.address, source_address=(source, 0)) as client:
        client.settimeout(20)
        yield client


def statuses(heard: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d+)", heard)


def read_all(client: socket.socket) -> bytes:
    heard = b""
    try:
        while part := client.recv(65536):
            heard += part
    except ConnectionResetError:
        pass  # it was sending while the server closed
    return heard


def only_connection(server: Running) -> Connection:
    wait_until(lambda: server.server.server_state.connections)
    (connection,) = server.server.server_state.connections
    assert isinstance(connection, Connection)
    return connection


def in_the_loop(connection: Connection, act: Callable[[], object]) -> None:
    is_done = threading.Event()
    connection.loop.call_soon_threadsafe(lambda: (act(), is_done.set()))
    assert is_done.wait(20)


def after(server: Running, seconds: float) -> None:
    """Let the server look at its only connection as if so many seconds had passed."""
    connection = only_connection(server)

    def look() -> None:
        assert connection.waits_since is not None
        connection.waits_since -= seconds
        connection.close_if_late()

    in_the_loop(connection, look)


@pytest.mark.parametrize("start", [b"GET /health/live HTTP/1.1\r\nx: ", b"GET /", b"GET / HTTP/1.1\r\n", b"\r\n"])
def test_a_head_without_end_is_refused_before_it_ends(server: Running, start: bytes) -> None:
    filler = {b"GET / HTTP/1.1\r\n": b"x-name", b"\r\n": b"\r\n"}.get(start, b"a")
    with connected(server) as client:
        client.sendall(start + filler * (2 * MAX_HEAD_BYTES // len(filler)))  # and nothing after it
        assert statuses(read_all(client)) == [b"431"]


def test_more_headers_than_the_limit_are_refused(server: Running) -> None:
    for count, status in ((MAX_HEADERS - 1, b"200"), (MAX_HEADERS, b"431")):  # and host
        with connected(server) as client:
            client.sendall(LIVE[:-2] + b"a:\r\n" * count + b"\r\n")
            assert statuses(client.recv(1000)) == [status]


@pytest.mark.parametrize("trailing", [b"0\r\nx-trailer: " + b"a" * 2 * MAX_HEAD_BYTES, b"5;" + b"x" * 2 * MAX_HEAD_BYTES])
def test_trailers_and_chunk_extensions_without_end_are_refused(server: Running, trailing: bytes) -> None:
    with connected(server) as client:
        client.sendall(POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n" + trailing)
        assert statuses(read_all(client)) == [b"431"]


@pytest.mark.parametrize("head", [b"GET /health/live", b"POST /nowhere", b"DELETE /", b"POST /"])
@pytest.mark.parametrize("framing", [b"content-length: 5000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n1388\r\n"])
def test_a_body_has_the_limit_also_on_routes_that_read_none(
    serve_bundle: Callable[..., Running], head: bytes, framing: bytes
) -> None:
    server = serve_bundle(max_body_bytes=1000)
    with connected(server) as client:
        client.sendall(head + b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" + framing + b"a" * 2000)
        heard = statuses(read_all(client))  # the connection ends, without the other 3,000 bytes
        assert heard in ([b"413"], [b"404"], [b"405"])
    assert server.ask("GET", "/health/live").status == 200


@pytest.mark.parametrize(("path", "status"), [(b"/nowhere", b"404"), (b"/", b"408")])
def test_a_body_that_does_not_come_ends_the_connection_also_after_a_refusal(
    server: Running, path: bytes, status: bytes
) -> None:
    with connected(server) as client:
        client.sendall(POST.replace(b" / ", b" %s " % path) + b"content-length: 100\r\n\r\n{")
        heard = client.recv(1) if status == b"404" else b""  # refused at once
        wait_until(lambda: only_connection(server)._message is not None)
        after(server, 11)
        assert statuses(heard + read_all(client)) == [status]


def test_a_stray_line_end_does_not_keep_a_connection(server: Running) -> None:
    with connected(server) as client:
        client.sendall(LIVE)
        assert client.recv(1000)
        client.sendall(b"\r\n")
        connection = only_connection(server)
        wait_until(lambda: connection._head_bytes)
        after(server, 76)
        assert client.recv(1) == b""


def test_a_client_that_asks_and_does_not_read_is_not_read_from(server: Running) -> None:
    page = len(server.ask("GET", "/").body)
    with connected(server) as client:
        client.settimeout(1)
        with pytest.raises(TimeoutError):  # 64 MB: more than the system's own buffers take
            client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2_000_000)
        connection = only_connection(server)
        unsent: list[int] = []
        in_the_loop(connection, lambda: unsent.append(connection._transport.get_write_buffer_size()))
        assert unsent[0] <= MAX_UNSENT_BYTES + page + 1000  # one more answer was started below the mark
        assert len(connection._unparsed) <= READ_BYTES
        assert len(connection._queue) < 50
        after(server, 11)
        wait_until(lambda: not server.server.server_state.connections)


def test_pipelined_requests_beyond_one_read_are_all_answered_in_order(server: Running) -> None:
    count = 3 * READ_BYTES // len(LIVE)
    with connected(server) as client:
        sender = threading.Thread(target=client.sendall, args=(LIVE * count + b"GET /nowhere HTTP/1.0\r\n\r\n",))
        sender.start()
        heard = statuses(read_all(client))
        sender.join()
    assert heard == [b"200"] * count + [b"404"]


def test_at_the_cap_the_connection_that_waits_longest_for_its_request_goes(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(max_connections=3)
    with ExitStack() as stack:
        first, second, third = [stack.enter_context(connected(server)) for _ in range(3)]
        first.sendall(LIVE)  # now the second waits longest
        assert first.recv(1000)
        with connected(server) as fourth:
            fourth.sendall(LIVE)
            assert fourth.recv(1000).startswith(b"HTTP/1.1 200")
            assert second.recv(1) == b""
            for kept in (first, third):
                kept.sendall(LIVE)
                assert kept.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_connection_whose_request_is_computed_does_not_give_way(serve_sources: Callable[..., Running]) -> None:
    classifier = Lengths()
    settings = ServeSettings(port=0, drain_s=0, threads=1, max_connections=1, deadline_ms=20_000)
    source = ModelSource("tiny", Path("nowhere"), settings.limits_with({}), lambda _: Engine(classifier, max_length=64))
    server = serve_sources([source], settings)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.post, "/predict", {"inputs": "computed"})
        assert classifier.has_begun.wait(20)
        with connected(server) as refused:
            assert refused.recv(1) == b""
        classifier.may_go.set()
        assert asked.result().status == 200


@pytest.mark.parametrize("size", [1, CHUNK_BYTES // 2])
def test_a_body_in_many_small_chunks_is_refused(server: Running, size: int) -> None:
    chunk = b"%x\r\n%s\r\n" % (size, b" " * size)
    with connected(server) as client:
        client.sendall(POST + b"transfer-encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):  # it is refused long before the end
            client.sendall(chunk * (4 * FEW_CHUNKS))
        assert statuses(read_all(client)) == [b"400"]


def test_a_few_small_chunks_and_many_of_some_size_are_taken(server: Running) -> None:
    small = b'{"inputs": "great"}'.ljust(FEW_CHUNKS)
    large = b'{"inputs": "great"}'.ljust(5 * FEW_CHUNKS * CHUNK_BYTES)
    for body, size in ((small, 1), (large, CHUNK_BYTES)):
        chunks = b"".join(b"%x\r\n%s\r\n" % (size, body[at : at + size]) for at in range(0, len(body), size))
        with connected(server) as client:
            client.sendall(POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
            assert statuses(read_all(client)) == [b"200"]


def test_one_address_has_a_share_of_the_connections_and_a_trusted_proxy_all(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(max_connections=8, max_connections_per_address=2, trusted_proxies=("127.0.0.3",))
    with ExitStack() as stack:
        honest = stack.enter_context(connected(server))
        herd = [stack.enter_context(connected(server, source="127.0.0.2")) for _ in range(3)]
        proxied = [stack.enter_context(connected(server, source="127.0.0.3")) for _ in range(3)]
        assert herd[0].recv(1) == b""
        for kept in (honest, *herd[1:], *proxied):
            kept.sendall(LIVE)
            assert kept.recv(1000).startswith(b"HTTP/1.1 200")


def test_of_bodies_that_are_too_large_together_the_largest_unfinished_one_goes(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(max_body_bytes=50_000, max_all_bodies_bytes=100_000)
    body = b'{"inputs": "great"}' + b" " * 10_000
    with ExitStack() as stack:
        small, large, other = [stack.enter_context(connected(server)) for _ in range(3)]
        arrived = 0
        for client, declared, sent in (
            (small, len(body), body[:9000]),
            (large, 50_000, b" " * 49_000),
            (other, 50_000, b" " * 40_000),
        ):
            client.sendall(POST + b"content-length: %d\r\n\r\n%s" % (declared, sent))
            arrived += len(sent)
            wait_until(partial(holding, server, arrived))
        other.sendall(b" " * 9000)  # 107,000 in all
        assert large.recv(1) == b""
        small.sendall(body[9000:])
        assert statuses(small.recv(1000)) == [b"200"]
        wait_until(partial(holding, server, 49_000))  # that of the third
    wait_until(partial(holding, server, 0))


def holding(server: Running, body_bytes: int) -> bool:
    return server.server._crowd._all_body_bytes == body_bytes


def test_an_ipv6_client_is_its_network() -> None:
    assert address_of(("2001:db8:1:2:3:4:5:6", 80, 0, 0)) == address_of(("2001:db8:1:2::9", 80, 0, 0))
    assert address_of(("2001:db8:1:3::9", 80, 0, 0)) != address_of(("2001:db8:1:2::9", 80, 0, 0))
    assert address_of(("::ffff:10.0.0.1", 80, 0, 0)) == address_of(("10.0.0.1", 80)) == "10.0.0.1"
    assert address_of(("::1", 80, 0, 0)) == "::1"
    assert address_of("") == ""


def test_a_server_on_a_unix_socket(serve_bundle: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = serve_bundle(uds=path, host="0.0.0.0")  # not listened on: no token is needed
    assert path.stat().st_mode & 0o777 == 0o660
    assert server.server.url == f"unix:{path}"
    client = http.client.HTTPConnection("any.name")
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.connect(str(path))
    client.request("POST", "/", b'{"inputs": "great"}', {"content-type": "application/json"})
    assert client.getresponse().status == 200
    client.close()


def test_routes_below_a_root_path_are_the_same_with_and_without_it(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(root_path="/classify")
    for path in ("/predict", "/classify/predict"):
        assert server.post(path, {"inputs": "great"}).status == 200
    assert server.ask("GET", "/classify").status == server.ask("GET", "/classify/").status == 200
    assert server.ask("GET", "/classifypredict").status == 404
    assert server.ask("GET", "/openapi.json").json["servers"] == [{"url": "/classify"}]


def test_a_connection_within_the_limit_finds_an_open_file() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        allow_open_files(soft - OTHER_FILES)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft
        if hard != resource.RLIM_INFINITY:
            with pytest.raises(SettingsError):
                allow_open_files(hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_port_in_use_is_named_with_what_to_do(server: Running) -> None:
    port = server.address[1]
    with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}; choose another --port"):
        Server(server.app, ServeSettings(port=port)).run()
    assert server.post("/predict", {"inputs": "a film"}).status == 200
