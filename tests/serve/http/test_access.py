"""Who may call, from where, and what the log learns."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from served import Running

from distill.errors import SettingsError
from serve.http.access import Access, allowed_hosts, client_of, read_tokens
from serve.settings import ServeSettings


def test_without_tokens_everybody_may_and_there_are_no_admin_routes(server: Running) -> None:
    assert server.post("/", {"inputs": "great"}).status == 200
    assert server.post("/admin/reload", {}).status == 404


def test_any_of_several_tokens_opens(serve_bundle: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# ours\nfirst-token\nsecond-token\n")
    server = serve_bundle(token_file=file, environment={"POTSTILL_TOKENS": "third-token"})
    for token in ("first-token", "second-token", "third-token"):
        assert server.post("/", {"inputs": "great"}, authorization=f"Bearer {token}").status == 200
    for header in ("Bearer wrong-token", "Bearer ", "Basic first-token", "first-token", "Bearer first-tokenx"):
        refused = server.post("/predict", {"inputs": "great"}, authorization=header)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json.keys() == {"error", "error_type"}
    assert server.ask("GET", "/info").status == 401
    assert server.ask("GET", "/health/ready").status == 200


def test_the_admin_door_has_its_own_key(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(environment={"POTSTILL_TOKENS": "caller-token", "POTSTILL_ADMIN_TOKENS": "admin-token"})
    assert server.post("/admin/reload", {}, authorization="Bearer caller-token").status == 401
    assert server.post("/admin/reload", {}, authorization="Bearer admin-token").status == 200
    assert server.post("/", {"inputs": "great"}, authorization="Bearer admin-token").status == 401


def test_a_short_token_and_an_empty_file_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--token-file.*8"):
        read_tokens(None, "short", name="token-file")
    (tmp_path / "none").write_text("# nothing\n")
    with pytest.raises(SettingsError, match="--token-file"):
        read_tokens(tmp_path / "none", None, name="token-file")
    with pytest.raises(SettingsError, match="missing"):
        read_tokens(tmp_path / "missing", None, name="token-file")
    assert "secret-token" not in repr(Access((b"secret-token",), ()))


def test_cors_is_off_and_opens_for_named_origins_only(serve_bundle: Callable[..., Running], server: Running) -> None:
    assert "access-control-allow-origin" not in server.ask("GET", "/health", origin="https://a.example").headers
    named = serve_bundle(cors_origins=("https://a.example",))
    assert named.ask("OPTIONS", "/", origin="https://a.example").headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in named.ask("OPTIONS", "/", origin="https://b.example").headers
    with pytest.raises(SettingsError, match="every page"):
        ServeSettings(cors_origins=("*",))


def test_request_ids_come_back_unless_they_could_forge_a_log_line(server: Running) -> None:
    assert server.ask("GET", "/health", x_request_id="abc-1").headers["x-request-id"] == "abc-1"
    for forged in ("a b", "x" * 65, "é"):
        assert server.ask("GET", "/health", x_request_id=forged).headers["x-request-id"] != forged


def test_the_log_holds_texts_only_when_asked(serve_bundle: Callable[..., Running], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        serve_bundle(log_requests=True).post("/", {"inputs": "opensesame"})
        assert "POST /" in caplog.text
        assert "opensesame" not in caplog.text
        serve_bundle(log_requests=True, log_texts=True).post("/", {"inputs": "opensesame"})
        assert "opensesame" in caplog.text


def make_certificate(certificate: Path, key: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)


def test_tls_by_files(serve_bundle: Callable[..., Running], tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    server = serve_bundle(tls_certificate=certificate, tls_key=key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with urllib.request.urlopen(f"{server.url}/health", context=trusting) as response:
        assert response.status == 200
    with pytest.raises(SettingsError, match="belong together"):
        ServeSettings(tls_key=key)


def test_a_handshake_counts_as_a_connection_and_has_a_time(serve_bundle: Callable[..., Running], tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    server = serve_bundle(tls_certificate=certificate, tls_key=key, max_connections=2, body_timeout_s=5)
    with ExitStack() as stack:
        herd = [stack.enter_context(socket.create_connection(server.address)) for _ in range(3)]
        for client in herd:
            client.settimeout(20)
        assert herd[0].recv(1) == b""  # it waited longest, and gave way
        assert ssl.get_server_certificate(server.address) == certificate.read_text()  # and so does the second
        assert herd[2].recv(1) == b""  # by the clock


@pytest.mark.parametrize("nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(70_000), b"\0" * 9])
def test_what_is_no_handshake_ends_at_once(serve_bundle: Callable[..., Running], tmp_path: Path, nonsense: bytes) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    server = serve_bundle(tls_certificate=certificate, tls_key=key, body_timeout_s=100)
    with socket.create_connection(server.address) as client:
        client.settimeout(20)
        with suppress(OSError):
            client.sendall(nonsense)
            while client.recv(1000):  # an alert may come first
                pass
    assert ssl.get_server_certificate(server.address) == certificate.read_text()


def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(
    serve_bundle: Callable[..., Running], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    server = serve_bundle(tls_certificate=certificate, tls_key=key)
    context = ssl.create_default_context(cafile=str(certificate))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(server.address) as raw:
        raw.settimeout(20)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(65536))
        client.write(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        raw.sendall(outgoing.read())  # the last message of the handshake and the request in one piece
        while True:
            incoming.write(raw.recv(65536))
            with suppress(ssl.SSLWantReadError):
                assert client.read(65536).startswith(b"HTTP/1.1 200")
                break


@pytest.mark.parametrize("empty", ["", " ", ",", " , ,"])
def test_a_token_variable_that_is_set_and_empty_refuses_to_start(empty: str) -> None:
    for name in ("POTSTILL_TOKENS", "POTSTILL_ADMIN_TOKENS"):
        with pytest.raises(SettingsError, match=name):
            Access.of(ServeSettings(), {name: empty})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "some.machine"])
def test_other_machines_need_tokens_unless_everyone_is_allowed_by_name(host: str) -> None:
    with pytest.raises(SettingsError, match="--allow-anonymous"):
        Access.of(ServeSettings(host=host), {"POTSTILL_ADMIN_TOKENS": "admin-token"})
    assert not Access.of(ServeSettings(host=host, allow_anonymous=True), {}).callers
    assert Access.of(ServeSettings(host=host), {"POTSTILL_TOKENS": "a-long-token"}).callers


def test_the_loopback_needs_no_token() -> None:
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert not Access.of(ServeSettings(host=host), {}).callers


def test_a_page_that_gives_itself_the_loopbacks_address_is_refused(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle()
    for host, status in (
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:9", 200),
    ):
        assert server.post("/predict", {"inputs": "great"}, host=host).status == status
        assert server.ask("GET", "/info", host=host).status == status
    assert server.ask("GET", "/health/ready", host="10.0.0.7:8080").status == 200  # a probe
    named = serve_bundle(allowed_hosts=("Classify.example",))
    for host, status in (("classify.example", 200), ("localhost", 421)):
        assert named.ask("GET", "/info", host=host).status == status


def test_other_addresses_answer_under_any_name_unless_told() -> None:
    assert allowed_hosts(ServeSettings(host="0.0.0.0")) is None
    assert allowed_hosts(ServeSettings(uds=Path("socket"))) is None
    assert allowed_hosts(ServeSettings(host="127.0.0.5")) == {"localhost", "127.0.0.1", "::1", "127.0.0.5"}


def test_only_a_trusted_proxy_names_the_client() -> None:
    assert client_of("10.0.0.1", b"1.2.3.4", ()) == "10.0.0.1"
    assert client_of("10.0.0.1", b"6.6.6.6, 1.2.3.4", ("10.0.0.1",)) == "1.2.3.4"  # the proxy appended the last one
    assert client_of("10.0.0.1", b"1.2.3.4, 10.0.0.2", ("10.0.0.1", "10.0.0.2")) == "1.2.3.4"
    assert client_of("", b"1.2.3.4", ("unix",)) == "1.2.3.4"
    for wrong in (b"", b"unknown", b"a\nb", b","):
        assert client_of("10.0.0.1", wrong, ("10.0.0.1",)) == "10.0.0.1"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_path_cannot_forge_a_line_of_the_log(
    serve_bundle: Callable[..., Running], caplog: pytest.LogCaptureFixture, log_format: str
) -> None:
    server = serve_bundle(log_requests=True, log_format=log_format)
    with caplog.at_level(logging.INFO, "serve.requests"):
        server.ask("GET", "/a%0a1%20127.0.0.1%20POST%20/%E2%80%A8%1b[31m/x", x_request_id="mine")
        server.post("/", {"inputs": "great"})
    (forged, plain) = [record.getMessage() for record in caplog.records if record.name == "serve.requests"]
    assert forged.isascii()
    assert forged.isprintable()
    if log_format == "text":
        assert len(forged.split(" ")) == len(plain.split(" ")) == 6
    else:
        values = json.loads(forged)
        assert (values["id"], values["client"], values["method"], values["status"]) == ("mine", "127.0.0.1", "GET", 404)
        assert json.loads(plain)["model"] == "tiny"


def test_tokens_are_read_again_and_a_list_that_is_gone_changes_nothing(
    serve_bundle: Callable[..., Running], tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text("first-token\n")
    server = serve_bundle(token_file=file)

    def statuses() -> list[int]:
        return [server.ask("GET", "/info", authorization=f"Bearer {name}-token").status for name in ("first", "second")]

    assert statuses() == [200, 401]
    file.write_text("second-token\n")
    asyncio.run(server.app.reload_all())
    assert statuses() == [401, 200]
    file.write_text("")
    asyncio.run(server.app.reload_all())
    assert statuses() == [401, 200]


def test_a_new_certificate_is_used_after_a_reload(serve_bundle: Callable[..., Running], tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    server = serve_bundle(tls_certificate=certificate, tls_key=key)
    first = ssl.get_server_certificate(server.address)
    assert first == certificate.read_text()
    context = server.server._tls
    assert context is not None
    key.write_text("no key")
    server.server._reload_certificate(context)
    assert ssl.get_server_certificate(server.address) == first
    make_certificate(certificate, key)
    server.server._reload_certificate(context)
    assert ssl.get_server_certificate(server.address) == certificate.read_text() != first
