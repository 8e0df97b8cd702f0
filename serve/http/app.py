"""The application: an ASGI callable over one or more models. Knows routes, doors and limits; no sockets, no signals."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.errors import DatasetError, PotstillError, SettingsError
from distill.machine import available_cpus
from serve.answering.engine import RowAnswer
from serve.answering.metrics import Metrics
from serve.answering.models import Model, ModelSource
from serve.answering.queue import late
from serve.errors import Reason, Refusal
from serve.http import openapi
from serve.http.access import Access
from serve.http.protocols.base import Headers, Query, Reply, require_unique_names
from serve.http.protocols.oip import metadata
from serve.http.routes import ROUTES, Found, Table
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)
requests_log = logging.getLogger("serve.requests")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = Callable[[int, Sequence[tuple[bytes, bytes]], bytes], bool]

IS_WANTED = "potstill.is_wanted"
"""Key of the scope under which the server says whether the client is still there."""

ANSWER = "potstill.answer"
"""Key of the scope under which the server takes an answer at once; it returns False where it cannot."""

PAGE = Path(__file__).parents[1] / "page" / "index.html"
_READ_AWAY_S = 1.0
_PLAIN = b"text/plain; version=0.0.4; charset=utf-8"
_HTML = b"text/html; charset=utf-8"
_NOTHING_FROM_ELSEWHERE = (
    (
        b"content-security-policy",
        b"default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
)


def create_app(sources: Sequence[ModelSource], settings: ServeSettings, *, environment: Mapping[str, str] = os.environ) -> App:
    """Open every bundle and return the application; raises what opening raises."""
    if not sources or len({source.name for source in sources}) != len(sources):
        raise SettingsError("a server needs at least one bundle, and each needs a name of its own")
    metrics = Metrics()
    threads = settings.threads or available_cpus()
    models = {source.name: Model(source, settings, metrics, threads=threads) for source in sources}
    return App(models, settings, Access.of(settings, environment), metrics)


class App:
    """The ASGI callable."""

    def __init__(self, models: Mapping[str, Model], settings: ServeSettings, access: Access, metrics: Metrics) -> None:
        """Take models that are ready; the first is the one that routes without a name mean."""
        self.models = models
        self.settings = settings
        self.metrics = metrics
        self.is_draining = False
        self.is_closing = False
        self._access = access
        self._default = next(iter(models.values()))
        self._table = Table()
        self._document = openapi.document(ROUTES)
        self._ids = itertools.count()
        self._id_prefix = secrets.token_hex(4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await _refuse_other_than_http(scope, receive, send)
            return
        started = time.perf_counter()
        headers: Headers = dict(scope["headers"])
        request_id = self._request_id(headers)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        by_method = self._table.find(scope["path"])
        found = by_method.get(method)
        dialect = (found or next(iter(by_method.values()), Found(ROUTES[0]))).route.dialect
        try:
            if method == "OPTIONS" and by_method:
                reply = Reply(204, b"")
            elif found is None:
                raise _nowhere(by_method)
            else:
                reply = await self._answer(found, scope, headers, receive, request_id)
        except Refusal as refusal:
            reply = _with_advice(dialect.refuse(refusal), refusal)
        except Exception:
            logger.exception("request %s failed", request_id)
            reply = dialect.refuse(Refusal(Reason.FAILED, f"the server failed; its log names request {request_id}"))
        seconds = time.perf_counter() - started
        self.metrics.count_request(dialect.name if found and found.route.does == "infer" else "other", reply.status, seconds)
        if self.settings.log_requests:
            requests_log.info("%s %s %s %.1fms %s", request_id, method, scope["path"], seconds * 1000, reply.status)
        await self._send(reply, request_id, headers, scope.get(ANSWER), send)

    def refused_at_the_door(self, method: str, path: str, headers: Headers) -> tuple[Reply, str] | None:
        """Return the refusal of a request that the queue has no room for, and the request's id; None for any other.

        For a server that has read a head and done nothing else: what refusals cost in an overload is taken from answers.
        """
        found = self._table.find(path).get(method)
        if found is None or found.route.does != "infer" or self.is_closing or b"origin" in headers:
            return None
        try:
            self._access.require_caller(headers.get(b"authorization"))
            model = self._model(found)
            model.batcher.let_in(deadline_s=_deadline_s(headers, model.limits.deadline_ms))
        except Refusal as refusal:
            if refusal.reason is not Reason.OVERLOADED:
                return None
            reply = _with_advice(found.route.dialect.refuse(refusal), refusal)
        else:
            return None
        request_id = self._request_id(headers)
        self.metrics.count_request(found.route.dialect.name, reply.status, 0.0)
        if self.settings.log_requests:
            requests_log.info("%s %s %s %.1fms %s", request_id, method, path, 0.0, reply.status)
        return reply, request_id

    async def _answer(self, found: Found, scope: Scope, headers: Headers, receive: Receive, request_id: str) -> Reply:
        route = found.route
        if route.audience == "caller":
            self._access.require_caller(headers.get(b"authorization"))
        elif route.audience == "administrator":
            self._access.require_administrator(headers.get(b"authorization"))
        if route.does == "infer":
            return await self._infer(found, scope, headers, receive, request_id)
        if route.does == "reload":
            return await self._reload(await self._body(headers, receive))
        reply: Reply = getattr(self, f"_{route.does}")(found)
        return reply

    async def _infer(self, found: Found, scope: Scope, headers: Headers, receive: Receive, request_id: str) -> Reply:
        dialect, model = found.route.dialect, self._model(found)
        began, deadline_s = time.monotonic(), _deadline_s(headers, model.limits.deadline_ms)
        # Before the body is read: a server that has too much to do must say so cheaply.
        model.batcher.refuse_if_full(1, tokens=0, deadline_s=deadline_s)
        query = dialect.read(await self._body(headers, receive), headers)
        if self.settings.log_texts:
            requests_log.info("%s %s", request_id, query.texts)
        model.require_acceptable(query.texts)
        engine = model.engine
        left_s = deadline_s - (time.monotonic() - began)  # the body's time counts, too
        if left_s <= 0:
            raise late()
        try:
            answers = await model.answer(engine, query.texts, deadline_s=left_s, is_wanted=scope.get(IS_WANTED, _always))
        except (DatasetError, SettingsError):
            raise Refusal(Reason.INVALID, "a text cannot be encoded, or this model takes no pairs of texts") from None
        cut = self._count_cut(model, query, answers)
        reply = dialect.write(query, answers, engine, model.name)
        return replace(reply, headers=(*reply.headers, (b"x-truncated-texts", b"%d" % cut))) if cut else reply

    def _count_cut(self, model: Model, query: Query, answers: Sequence[RowAnswer]) -> int:
        cut = sum(answer.was_cut for answer in answers)
        if not cut:
            return 0
        truncate = model.limits.long_texts == "truncate" if query.truncate is None else query.truncate
        if not truncate:
            raise Refusal(
                Reason.INVALID, f"{cut} texts have more than {model.engine.max_length} tokens; shorten them or truncate"
            )
        self.metrics.count_cut(model.name, cut)
        return cut

    async def _reload(self, body: bytes) -> Reply:
        wanted = _reload_request(body)
        name = wanted.get("model", self._default.name)
        if name not in self.models:
            raise Refusal(Reason.NOT_FOUND, "there is no such model")
        try:
            engine = await self.models[name].reload(Path(wanted["bundle"]) if "bundle" in wanted else None)
        except PotstillError:
            raise Refusal(Reason.CONFLICT, "the bundle was not taken, the old one answers on; the log says why") from None
        return _json({"model": name, "version": engine.version})

    async def reload_all(self) -> None:
        """Read every bundle's folder again; one that fails stays as it was."""
        for model in self.models.values():
            try:
                await model.reload()
            except PotstillError:
                continue  # said by the model

    def close(self) -> None:
        """Let the engines finish what waits."""
        for model in self.models.values():
            model.batcher.close()

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        limit = self.settings.max_body_bytes
        declared = headers.get(b"content-length", b"0")
        try:
            if len(declared) > 15 or (declared.isdigit() and int(declared) > limit):
                raise Refusal(Reason.TOO_LARGE, f"the body has more than {limit} bytes")
            async with asyncio.timeout(self.settings.body_timeout_s):
                return await _whole_body(receive, limit)
        except Refusal as refusal:
            if refusal.reason is Reason.TOO_LARGE and b"expect" not in headers:
                await _read_away(receive)
            raise
        except TimeoutError:
            raise Refusal(Reason.TOO_SLOW, "the body did not arrive in time") from None

    def _model(self, found: Found) -> Model:
        model = self._default if found.model is None else self.models.get(found.model)
        if model is None or found.version not in (None, "1"):
            raise Refusal(Reason.NOT_FOUND, "there is no such model")
        return model

    def _request_id(self, headers: Headers) -> str:
        given = headers.get(b"x-request-id", b"").decode("ascii", "replace")
        # A log line must not be forged by a client.
        if given and len(given) <= 64 and given.replace("-", "").replace("_", "").isalnum():
            return given
        return f"{self._id_prefix}-{next(self._ids):x}"

    async def _send(self, reply: Reply, request_id: str, headers: Headers, answer: Answer | None, send: Send) -> None:
        sent = headers_of(reply, request_id)
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") in self.settings.cors_origins:
            sent += [(b"access-control-allow-origin", origin), (b"vary", b"origin"), *_CORS]
        # Said while requests still come in on open connections, so that a client takes its next one to another server.
        if self.is_closing or reply.status in (Reason.TOO_LARGE.value, Reason.TOO_SLOW.value):
            sent.append((b"connection", b"close"))
        if answer is not None and answer(reply.status, sent, reply.body):
            return
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
        await send({"type": "http.response.body", "body": reply.body})

    def _live(self, found: Found) -> Reply:
        return _json({"live": True})

    def _ready(self, found: Found) -> Reply:
        if self.is_draining:
            raise Refusal(Reason.NOT_READY, "the server is ending")
        return _json({"ready": True})

    def _model_ready(self, found: Found) -> Reply:
        self._model(found)
        return self._ready(found)

    def _server_metadata(self, found: Found) -> Reply:
        return _json({"name": "potstill", "version": version("potstill"), "extensions": ["binary_tensor_data"]})

    def _model_metadata(self, found: Found) -> Reply:
        model = self._model(found)
        return _json(metadata(model.engine, model.name))

    def _info(self, found: Found) -> Reply:
        return _json(info(self.models, self._default))

    def _metrics(self, found: Found) -> Reply:
        return Reply(200, self.metrics.text(), _PLAIN)

    def _openapi(self, found: Found) -> Reply:
        return _json(self._document)

    def _docs(self, found: Found) -> Reply:
        return Reply(200, openapi.page(self._document), _HTML, _NOTHING_FROM_ELSEWHERE)

    def _page(self, found: Found) -> Reply:
        return Reply(200, PAGE.read_bytes(), _HTML, _NOTHING_FROM_ELSEWHERE)


def info(models: Mapping[str, Model], default: Model) -> dict[str, Any]:
    """Return what is served: the default model in text-embeddings-inference's words, and every model's card."""
    labels = default.engine.classifier.labels
    classifier = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    return {
        "model_id": default.name,
        "model_type": {"classifier": classifier},
        "max_input_length": default.engine.max_length,
        "max_client_batch_size": default.limits.max_texts,
        "version": version("potstill"),
        "models": {
            name: {**model.engine.about, **model.engine.live(), "version": model.engine.version}
            for name, model in models.items()
        },
    }


_CORS = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, x-request-id, x-deadline-ms"),
)


def headers_of(reply: Reply, request_id: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that every answer has, and its own."""
    return [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        (b"x-request-id", request_id.encode("ascii", "replace")),
        *reply.headers,
    ]


async def _read_away(receive: Receive) -> None:
    """Read on for a moment and keep nothing: closed while it still sends, a client would see a reset and not the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_READ_AWAY_S):
            while (await receive()).get("more_body"):
                pass


async def _whole_body(receive: Receive, limit: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body") and size <= limit:
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise Refusal(Reason.GONE, "the client went away")
    if len(body) > limit:
        raise Refusal(Reason.TOO_LARGE, f"the body has more than {limit} bytes")
    return body


def _deadline_s(headers: Headers, longest_ms: int) -> float:
    given = headers.get(b"x-deadline-ms")
    if given is None:
        return longest_ms / 1000
    if not given.isdigit() or len(given) > 9 or int(given) == 0:
        raise Refusal(Reason.MALFORMED, "x-deadline-ms must be a number of milliseconds above 0")
    return min(int(given), longest_ms) / 1000


def _reload_request(body: bytes) -> dict[str, str]:
    if not body.strip():
        return {}
    require_unique_names(body)
    wanted = json.loads(body)
    if (
        not isinstance(wanted, dict)
        or wanted.keys() - {"model", "bundle"}
        or not all(isinstance(v, str) and v for v in wanted.values())
    ):
        raise Refusal(Reason.MALFORMED, 'the body may hold "model" and "bundle", both strings')
    return wanted


def _nowhere(by_method: Mapping[str, Found]) -> Refusal:
    if not by_method:
        return Refusal(Reason.NOT_FOUND, "there is nothing here; GET /docs lists the routes")
    return Refusal(Reason.METHOD, f"the method must be {' or '.join(sorted(by_method))}")


def _with_advice(reply: Reply, refusal: Refusal) -> Reply:
    if refusal.retry_after_s is not None:
        return replace(reply, headers=(*reply.headers, (b"retry-after", b"%d" % refusal.retry_after_s)))
    if refusal.reason is Reason.UNAUTHORIZED:
        return replace(reply, headers=(*reply.headers, (b"www-authenticate", b"Bearer")))
    return reply


def _json(values: Mapping[str, Any]) -> Reply:
    return Reply(200, json.dumps(values).encode())


def _always() -> bool:
    return True


async def _refuse_other_than_http(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    while True:  # lifespan: there is nothing to start, the models are open already
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
