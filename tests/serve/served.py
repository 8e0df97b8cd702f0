"""A running server, as the tests talk to it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from distill.classifier import TextInput
from distill.labels import Logits, ProblemType
from distill.tokenization import TextTokenizer
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


def character_tokenizer() -> TextTokenizer:
    """Return a tokenizer whose tokens are ASCII characters, and their ids the codes of these; it reads 64."""
    library = Tokenizer(models.WordLevel({chr(code): code for code in range(128)}, unk_token="?"))
    library.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    return TextTokenizer(library, max_length=64, pad_id=0)


class Lengths:
    """A classifier whose logit is the number of characters; it waits where it is told to, and remembers its batches."""

    labels = ("length",)
    problem_type: ProblemType = "regression"

    def __init__(self) -> None:
        self.tokenizer = character_tokenizer()
        self.may_go = threading.Event()
        self.has_begun = threading.Event()
        self.batches: list[list[str]] = []

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        return self.predict_encoded(self.tokenizer.encode(texts))

    def predict_encoded(self, rows: Sequence[NDArray[np.int64]]) -> Logits:
        texts = ["".join(map(chr, row)) for row in rows]
        self.has_begun.set()
        assert self.may_go.wait(20)
        self.batches.append(texts)
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[len(text)] for text in texts], np.float32)
