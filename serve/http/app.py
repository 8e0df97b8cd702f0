"""The application: an ASGI callable over one or more models. Knows routes, access and limits; no sockets, no signals."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import msgspec

from distill.errors import DatasetError, PotstillError, SettingsError
from distill.machine import available_cpus
from serve.answering.metrics import Metrics
from serve.answering.models import Model, ModelSource
from serve.answering.queue import late
from serve.errors import Reason, Refusal
from serve.http.about import METRICS_TYPE, fixed_replies, info, json_reply
from serve.http.access import Access
from serve.http.asgi import (
    ANSWER,
    IS_WANTED,
    Answer,
    Receive,
    Scope,
    Send,
    answer_other_than_http,
    deadline_of,
    headers_of,
    read_body,
)
from serve.http.protocols.base import Dialect, Headers, Reply, decoded
from serve.http.protocols.oip import metadata
from serve.http.routes import ROUTES, Found, find
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)
requests_log = logging.getLogger("serve.requests")

_CORS = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, x-request-id, x-deadline-ms"),
)


class ReloadRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `/admin/reload`; empty fields mean the default model and its current folder."""

    model: Annotated[str, msgspec.Meta(min_length=1)] = ""
    bundle: Annotated[str, msgspec.Meta(min_length=1)] = ""


_RELOAD = msgspec.json.Decoder(ReloadRequest)


def create_app(sources: Sequence[ModelSource], settings: ServeSettings, *, environment: Mapping[str, str] = os.environ) -> App:
    """Open every bundle and return the application; raises what opening raises."""
    if not sources or len({source.name for source in sources}) != len(sources):
        raise SettingsError("a server needs at least one bundle, each with its own name")
    metrics = Metrics()
    models = {source.name: Model(source, settings, metrics, threads=settings.threads or available_cpus()) for source in sources}
    return App(models, settings, Access.of(settings, environment), metrics)


@dataclass(eq=False)
class App:
    """The ASGI callable.

    Attributes:
        models: Models by name; routes without a model name use the first.
        settings: Limits, CORS origins and logging.
        access: The tokens.
        metrics: Where requests are counted.
        is_draining: The server is shutting down: not ready, but it still answers.
        is_closing: Clients are told to close their connections.
        fixed: Replies that never change.
        ids: Of requests that bring none; they start at random, so that two servers hardly share one.
    """

    models: Mapping[str, Model]
    settings: ServeSettings
    access: Access
    metrics: Metrics
    is_draining: bool = False
    is_closing: bool = False
    fixed: Mapping[str, Reply] = field(default_factory=fixed_replies)
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(secrets.randbits(48)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await answer_other_than_http(scope, receive, send)
            return
        started = time.perf_counter()
        headers: Headers = dict(scope["headers"])
        request_id = self._request_id(headers)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        by_method = find(scope["path"])
        found = by_method.get(method)
        dialect = (found or next(iter(by_method.values()), Found(ROUTES[0]))).route.dialect
        try:
            if method == "OPTIONS" and by_method:
                reply = Reply(204, b"")
            elif found is not None:
                reply = await self._answer(found, scope, headers, receive, request_id)
            elif by_method:
                raise Refusal(Reason.METHOD, f"the method must be {' or '.join(sorted(by_method))}")
            else:
                raise Refusal(Reason.NOT_FOUND, "no such route; GET /docs lists the routes")
        except Refusal as refusal:
            reply = _refused(dialect, refusal)
        except Exception:
            logger.exception("request %s failed", request_id)
            reply = dialect.refuse(Refusal(Reason.FAILED, f"internal error; the server's log names request {request_id}"))
        protocol = dialect.name if found and found.route.does == "infer" else "other"
        self._record(protocol, (request_id, method, scope["path"]), reply.status, time.perf_counter() - started)
        await self._send(reply, request_id, headers, scope.get(ANSWER), send)

    def refused_early(self, method: str, path: str, headers: Headers) -> tuple[Reply, str] | None:
        """Return the refusal of a request that the queue has no room for, and the request's id; None for any other.

        The server calls it with nothing but the head: under overload, the cost of refusals is taken from answers.
        """
        found = find(path).get(method)
        if found is None or found.route.does != "infer" or self.is_closing or b"origin" in headers:
            return None
        dialect = found.route.dialect
        try:
            self.access.require("caller", headers.get(b"authorization"))
            model = self._model(found.name, found.version)
            model.batcher.admission.let_in(deadline_s=deadline_of(headers, model.limits.deadline_ms))
        except Refusal as refusal:
            if refusal.reason is Reason.OVERLOADED:
                reply, request_id = _refused(dialect, refusal), self._request_id(headers)
                self._record(dialect.name, (request_id, method, path), reply.status, 0.0)
                return reply, request_id
        return None

    def _record(self, protocol: str, request: tuple[str, str, str], status: int, seconds: float) -> None:
        self.metrics.count_request(protocol, status, seconds)
        if self.settings.log_requests:
            requests_log.info("%s %s %s %.1fms %s", *request, seconds * 1000, status)

    async def _answer(self, found: Found, scope: Scope, headers: Headers, receive: Receive, request_id: str) -> Reply:
        route = found.route
        self.access.require(route.audience, headers.get(b"authorization"))
        match route.does:
            case "infer":
                return await self._infer(found, scope, headers, receive, request_id)
            case "reload":
                return await self._reload(await self._body(headers, receive))
            case "ready":
                self._model(found.name, found.version)
                if self.is_draining:
                    raise Refusal(Reason.NOT_READY, "the server is shutting down")
                return json_reply({"ready": True})
            case "model_metadata":
                return json_reply(metadata(self._model(found.name, found.version)))
            case "info":
                return json_reply(info(self.models, self._model(None)))
            case "metrics":
                return Reply(200, self.metrics.text(), METRICS_TYPE)
            case _:
                return self.fixed[route.does]

    async def _infer(self, found: Found, scope: Scope, headers: Headers, receive: Receive, request_id: str) -> Reply:
        dialect, model = found.route.dialect, self._model(found.name, found.version)
        began, deadline_s = time.monotonic(), deadline_of(headers, model.limits.deadline_ms)
        # Before the body is read: an overloaded server must refuse at little cost.
        model.batcher.admission.refuse_if_full(1, tokens=0, deadline_s=deadline_s)
        query = dialect.read(await self._body(headers, receive), headers)
        if self.settings.log_texts:
            requests_log.info("%s %s", request_id, query.texts)
        model.require_acceptable(query.texts)
        engine = model.engine
        left_s = deadline_s - (time.monotonic() - began)  # reading the body counts
        if left_s <= 0:
            raise late()
        try:
            answers = await model.answer(engine, query.texts, deadline_s=left_s, is_wanted=scope.get(IS_WANTED, lambda: True))
        except (DatasetError, SettingsError):
            raise Refusal(Reason.INVALID, "a text cannot be encoded, or this model does not take pairs of texts") from None
        reply, cut = dialect.write(query, answers, engine, model.name), sum(answer.was_cut for answer in answers)
        if not cut:
            return reply
        if not (model.limits.long_texts == "truncate" if query.truncate is None else query.truncate):
            raise Refusal(
                Reason.INVALID, f"{cut} texts have more than {engine.max_length} tokens; shorten them or allow truncation"
            )
        self.metrics.cut.labels(model.name).inc(cut)
        return replace(reply, headers=(*reply.headers, (b"x-truncated-texts", b"%d" % cut)))

    async def _reload(self, body: bytes) -> Reply:
        try:
            wanted = decoded(_RELOAD, body.strip() or b"{}", once=(b'"model"', b'"bundle"'))
        except Refusal:
            raise Refusal(Reason.MALFORMED, 'the body may hold "model" and "bundle", both strings') from None
        model = self._model(wanted.model)
        try:
            engine = await model.reload(Path(wanted.bundle) if wanted.bundle else None)
        except PotstillError:
            raise Refusal(Reason.CONFLICT, "the bundle was refused and the old one is still served; see the log") from None
        return json_reply({"model": model.name, "version": engine.version})

    async def reload_all(self) -> None:
        """Read the folder of every bundle again; a model whose reload fails keeps its bundle."""
        for model in self.models.values():
            with suppress(PotstillError):  # the model has logged it
                await model.reload()

    def close(self) -> None:
        """Let the engines finish the waiting requests."""
        for model in self.models.values():
            model.batcher.close()

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        return await read_body(headers, receive, limit=self.settings.max_body_bytes, timeout_s=self.settings.body_timeout_s)

    def _model(self, name: str | None, version: str | None = None) -> Model:
        """Return the model of this name, or the default model."""
        model = self.models.get(name) if name else next(iter(self.models.values()))
        if model is None or version not in (None, "1"):
            raise Refusal(Reason.NOT_FOUND, "there is no such model")
        return model

    def _request_id(self, headers: Headers) -> str:
        given = headers.get(b"x-request-id", b"").decode("ascii", "replace")
        # Only harmless characters: a client must not be able to forge a log line.
        if given and len(given) <= 64 and given.replace("-", "").replace("_", "").isalnum():
            return given
        return f"{next(self.ids):x}"

    async def _send(self, reply: Reply, request_id: str, headers: Headers, answer: Answer | None, send: Send) -> None:
        sent = headers_of(reply, request_id)
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") in self.settings.cors_origins:
            sent += [(b"access-control-allow-origin", origin), (b"vary", b"origin"), *_CORS]
        # Sent while open connections may still ask, so that a client sends its next request to another server.
        if self.is_closing or reply.status in (Reason.TOO_LARGE.value, Reason.TOO_SLOW.value):
            sent.append((b"connection", b"close"))
        if answer is not None and answer(reply.status, sent, reply.body):
            return
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
        await send({"type": "http.response.body", "body": reply.body})


def _refused(dialect: Dialect, refusal: Refusal) -> Reply:
    """Return the protocol's error, with the header that says what to do next."""
    reply = dialect.refuse(refusal)
    if refusal.retry_after_s is not None:
        return replace(reply, headers=(*reply.headers, (b"retry-after", b"%d" % refusal.retry_after_s)))
    if refusal.reason is Reason.UNAUTHORIZED:
        return replace(reply, headers=(*reply.headers, (b"www-authenticate", b"Bearer")))
    return reply
