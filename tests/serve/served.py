"""A running server, as the tests talk to it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from distill.classifier import TextInput
from distill.labels import Logits, ProblemType
from serve.http.app import App
from serve.http.server import Server


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


class Lengths:
    """A classifier whose logit is the text's length; it waits where it is told to, and remembers its batches."""

    labels = ("length",)
    problem_type: ProblemType = "regression"

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.has_begun = threading.Event()
        self.batches: list[list[str]] = []

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        self.has_begun.set()
        assert self.may_go.wait(20)
        self.batches.append([cast(str, text) for text in texts])
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[len(text)] for text in texts], np.float32)
