"""A running server, as the tests talk to it."""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from serve.app import App
from serve.server import Server


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server in a thread of this process."""

    app: App
    server: Server
    thread: threading.Thread = field(repr=False)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server.servers[0].sockets[0].getsockname()[:2]
        return host, port

    @property
    def url(self) -> str:
        return self.server.url

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answered:
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        answered = Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        connection.close()
        return answered

    def post(self, path: str, values: object, **headers: str) -> Answered:
        return self.ask("POST", path, json.dumps(values).encode(), content_type="application/json", **headers)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=20)
        self.app.close()
