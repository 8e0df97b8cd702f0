"""Who may call, from where, and what the log learns."""

from __future__ import annotations

import logging
import ssl
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from served import Running

from distill.bundle import Bundle
from distill.errors import SettingsError
from serve.http.access import Access, read_tokens
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


def test_tls_by_files(serve_bundle: Callable[..., Running], tmp_path: Path, tiny_student: Bundle) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = serve_bundle(tls_certificate=certificate, tls_key=key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with urllib.request.urlopen(f"{server.url}/health", context=trusting) as response:
        assert response.status == 200
    with pytest.raises(SettingsError, match="belong together"):
        ServeSettings(tls_key=key)
