"""One request as its head describes it: what it asks, who asks, and how long the answer may take."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

from distill.errors import requires
from serve.answering.models import Model
from serve.http.protocols.base import Dialect, Headers, Reply
from serve.http.routes import Found

with requires("serving"):
    import httptools


@dataclass(eq=False, slots=True)
class Call:
    """A request whose head was read once.

    Attributes:
        id: Given by the client or by the server; in the answer and in the log.
        method: HTTP method.
        path: Decoded path, without the query and without the root path.
        headers: Lower-case names; the last of several with one name.
        address: The client's address, which a trusted proxy may name; empty for a unix socket.
        client: Who asks, for fairness and the log: a token's place in its list, or an address.
        began: `time.monotonic()` when the head was complete.
        found: The route; None when there is none for path and method.
        dialect: The protocol of its errors.
        model: The model of a route that infers.
        deadline_s: Seconds from `began` in which a route that infers must answer.
        reply: The answer that the head alone decides, mostly a refusal; None when the body is needed.
    """

    id: str
    method: str
    path: str
    headers: Headers
    address: str
    client: str
    began: float
    found: Found | None
    dialect: Dialect
    model: Model | None = None
    deadline_s: float = 0.0
    reply: Reply | None = None

    @property
    def takes_body(self) -> bool:
        """Whether the body is read; that of any other route is discarded as it arrives."""
        return self.reply is None and self.found is not None and self.found.route.method == "POST"


class Message:
    """A request as it arrives.

    Attributes:
        target: Path and query.
        headers: Lower-case names.
        method: Known with the complete head.
        is_last: The connection closes after the answer.
        call: What the application made of the head; None while earlier requests are answered.
        is_answered: The answer is written; what is left of the body is discarded.
        size: Bytes of the body so far.
        num_chunks: Chunks so far.
        body: The body so far, if it is read.
    """

    __slots__ = ("body", "call", "headers", "is_answered", "is_last", "method", "num_chunks", "size", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.method = ""
        self.is_last = self.is_answered = False
        self.call: Call | None = None
        self.size = self.num_chunks = 0
        self.body = bytearray()


def path_of(target: bytes) -> str:
    """Return the decoded path of a request target, also of one with scheme and host; empty if it has none."""
    path = target
    if not target.startswith(b"/"):
        try:
            path = httptools.parse_url(target).path or b""
        except httptools.HttpParserInvalidURLError:
            return ""
    decoded = path.partition(b"?")[0].decode("latin-1")
    return urllib.parse.unquote(decoded) if "%" in decoded else decoded
