"""What the page says of running in public: each command is read and served as it is written, each nginx block by nginx."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from served import Running
from test_access import make_certificate
from test_deploy import settings_of
from waiting import wait_until

from distill.bundle import Bundle
from serve.answering.models import ModelSource
from serve.settings import ServeSettings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "deploy" / "in-public.md").read_text()
README = (ROOT / "serve" / "README.md").read_text()
TOKEN = "a-token-of-one-client"
NAME = "classify.example.org"
CLIENT = "127.0.0.5"
"""Another address than that of nginx, which the server trusts."""


def blocks(kind: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL)


def commands(page: str) -> list[str]:
    lines = "".join(blocks("console", page)).splitlines()
    return [line for line in lines if line.startswith("potstill serve student --")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the commands are run in, with the files that they name."""
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    make_certificate(tmp_path / "chain.pem", tmp_path / "key.pem")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def serve_as_written(
    place: Path, serve_sources: Callable[..., Running], tiny_student: Bundle
) -> Callable[[str], tuple[Running, ServeSettings]]:
    """Return a function from a command of the page to its server, on a free port, or a socket in the folder."""

    def start(command: str) -> tuple[Running, ServeSettings]:
        words = shlex.split(command, comments=True)
        words = [str(place / "socket") if word == "/run/potstill/socket" else word for word in words]
        words = [tiny_student.digest if re.fullmatch("[0-9a-f]{64}", word) else word for word in words]
        bundle, settings = settings_of(words)
        assert bundle == Path("student")
        settings = settings.model_copy(update={"port": 0, "drain_s": 0})
        source = ModelSource.of_bundle("student", tiny_student.path, settings.limits_with({}), settings)
        return serve_sources([source], settings), settings

    return start


def asked(settings: ServeSettings, server: Running, path: str, **headers: str) -> int:
    if settings.uds is not None:
        client = http.client.HTTPConnection("localhost")
        client.sock = socket.socket(socket.AF_UNIX)
        client.sock.connect(str(settings.uds))
    elif settings.tls_certificate is not None:
        context = ssl.create_default_context(cafile=str(settings.tls_certificate))
        client = http.client.HTTPSConnection("127.0.0.1", server.address[1], context=context)
    else:
        client = http.client.HTTPConnection(*server.address)
    client.request("POST", path, b'{"inputs": "great"}', {"content-type": "application/json", **headers})
    status = client.getresponse().status
    client.close()
    return status


@pytest.mark.parametrize("command", [each for each in commands(PAGE) if "signature" not in each])
def test_a_command_of_the_page_serves_what_it_says(
    command: str, serve_as_written: Callable[[str], tuple[Running, ServeSettings]]
) -> None:
    server, settings = serve_as_written(command)
    host = {"host": (settings.allowed_hosts or ("localhost",))[0]}
    bearer = {"authorization": f"Bearer {TOKEN}"}
    path = f"{settings.root_path}/predict"
    assert asked(settings, server, path, **host, **bearer) == 200
    assert asked(settings, server, path, **host) == (401 if settings.token_file else 200)
    if settings.allowed_hosts:
        assert asked(settings, server, path, host="evil.example", **bearer) == 421


def test_the_readme_has_no_other_commands_than_the_page() -> None:
    assert set(commands(README)) < set(commands(PAGE))


def test_a_required_signature_is_a_flag_of_the_command() -> None:
    (command,) = [each for each in commands(PAGE) if "signature" in each]
    assert settings_of(shlex.split(command, comments=True))[1].require_signature == Path("team.pub")


@contextmanager
def nginx(place: Path, block: str, port: int) -> Iterator[None]:
    """Run nginx with a block of the page, and this port in place of the page's."""
    temporary = "".join(f"{each}_temp_path {place / each};\n" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    site = block if "server {" in block else f"server {{ listen 127.0.0.1:{port}; {block} }}"
    config = place / "nginx.conf"
    # The socket is its user's and its group's: in place of the group that the page speaks of.
    user = "user root;\n" if os.getuid() == 0 else ""
    config.write_text(
        f"{user}error_log {place}/error.log;\npid {place}/pid;\nevents {{}}\nhttp {{ access_log off;\n{temporary}{site}}}"
    )
    with subprocess.Popen(["nginx", "-e", f"{place}/error.log", "-c", str(config), "-g", "daemon off;"]) as process:
        try:
            wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            yield
        finally:
            process.terminate()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("number", [0, 1])
def test_through_nginx_as_the_page_has_it(
    number: int, place: Path, serve_as_written: Callable[[str], tuple[Running, ServeSettings]], caplog: pytest.LogCaptureFixture
) -> None:
    server, settings = serve_as_written(f"{commands(PAGE)[number]} --log-requests")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    changes = {"/run/potstill/socket": f"{place}/socket", "/etc/ssl/": f"{place}/", "listen 443": f"listen 127.0.0.1:{port}"}
    if settings.uds is None:
        changes["127.0.0.1:8080"] = f"127.0.0.1:{server.address[1]}"
    block = blocks("nginx")[number]
    for old, new in changes.items():
        block = block.replace(old, new)
    with nginx(place, block, port):
        path = f"{settings.root_path}/predict"
        bearer = {"authorization": f"Bearer {TOKEN}"}
        with caplog.at_level("INFO", logger="serve"):
            assert through(place, port, path, bearer, is_tls=number == 0) == 200
            assert through(place, port, path, {"x-forwarded-for": "203.0.113.9"}, is_tls=number == 0) == 401
        # By its token, and without one by the address that nginx saw, not by the one that the client names.
        assert [record.getMessage().split()[1] for record in caplog.records] == ["caller-0", CLIENT]
        assert through(place, port, path, bearer, is_tls=number == 0, text="a" * (2 << 20)) == 413


def through(place: Path, port: int, path: str, headers: Mapping[str, str], *, is_tls: bool, text: str = "great") -> int:
    body: Any = json.dumps({"inputs": text, "truncate": True}).encode()
    if is_tls:
        context = ssl.create_default_context(cafile=str(place / "chain.pem"))
        client: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, context=context, source_address=(CLIENT, 0)
        )
    else:
        client = http.client.HTTPConnection("127.0.0.1", port, source_address=(CLIENT, 0))
    client.request("POST", path, body, {"host": NAME, "content-type": "application/json", **headers})
    status = client.getresponse().status
    client.close()
    return status
