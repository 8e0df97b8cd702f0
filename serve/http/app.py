"""The application over one or more models. Knows routes, access and limits; no sockets, no signals."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from distill.errors import DatasetError, PotstillError, SettingsError
from distill.machine import available_cpus
from serve.answering.metrics import Metrics
from serve.answering.models import Model, ModelSource
from serve.answering.queue import late
from serve.errors import Reason, Refusal
from serve.http.about import METRICS_TYPE, fixed_replies, info, json_reply
from serve.http.access import Access, allowed_hosts, client_of, require_host
from serve.http.asgi import Receive, Scope, Send, answer_other_than_http, deadline_of, read_body
from serve.http.call import Call
from serve.http.desk import Desk
from serve.http.logs import RequestLog
from serve.http.protocols.base import Dialect, Headers, Query, Reply, decoded
from serve.http.protocols.oip import metadata
from serve.http.routes import ROUTES, Found, ReloadRequest, find
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

MAX_PATH_CHARS = 512
"""A longer path has no route; paths are cached."""

_CORS = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, x-request-id, x-deadline-ms"),
)


_NOWHERE = Found(ROUTES[0])
_HEALTH = ("live", "ready")
_RELOAD = msgspec.json.Decoder(ReloadRequest)


def create_app(sources: Sequence[ModelSource], settings: ServeSettings, *, environment: Mapping[str, str] = os.environ) -> App:
    """Open every bundle and return the application; raises what opening raises."""
    if not sources or len({source.name for source in sources}) != len(sources):
        raise SettingsError("a server needs at least one bundle, each with its own name")
    access, metrics = Access.of(settings, environment), Metrics()
    models = {source.name: Model(source, settings, metrics, threads=settings.threads or available_cpus()) for source in sources}
    return App(models, settings, access, metrics, environment)


@dataclass(eq=False)
class App:
    """The application: `judge` reads a head, `answer` a body; also an ASGI callable.

    Attributes:
        models: Models by name; routes without a model name use the first.
        settings: Limits, CORS origins and logging.
        access: The tokens.
        metrics: Where requests are counted.
        environment: Where tokens are read from.
        is_draining: The server is shutting down: not ready, but it still answers.
        is_closing: Clients are told to close their connections.
        fixed: Replies that never change.
        ids: Of requests that bring none; they start at random, so that two servers hardly share one.
    """

    models: Mapping[str, Model]
    settings: ServeSettings
    access: Access
    metrics: Metrics
    environment: Mapping[str, str] = field(default_factory=dict)
    is_draining: bool = False
    is_closing: bool = False
    fixed: Mapping[str, Reply] = field(default_factory=dict)
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(secrets.randbits(48)))

    def __post_init__(self) -> None:
        self.fixed = self.fixed or fixed_replies(self.settings.root_path)
        self._hosts = allowed_hosts(self.settings)
        self._proxies = frozenset(self.settings.trusted_proxies)
        self._log = RequestLog(self.settings)
        self._desk = Desk()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of another server, by ASGI."""
        if scope["type"] != "http":
            await answer_other_than_http(scope, receive, send)
            return
        peer = (scope.get("client") or ("",))[0]
        call = self.judge(scope["method"], scope["path"], dict(scope["headers"]), peer)
        reply = call.reply
        if reply is None:
            try:
                limit, timeout_s = self.settings.max_body_bytes, self.settings.body_timeout_s
                body = (
                    await read_body(call.headers, receive, limit=limit, timeout_s=timeout_s) if call.takes_body else bytearray()
                )
            except Refusal as refusal:
                reply = self.refuse(call, refusal)
            else:
                reply = await self.answer(call, body)
        headers = self.headers_of(call, reply)
        if self.is_closing or reply.status in (Reason.TOO_LARGE.value, Reason.TOO_SLOW.value):
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def judge(self, method: str, path: str, headers: Headers, peer: str) -> Call:
        """Read the head of a request once: route, token, deadline; the call has a reply if the head alone decides it.

        Under overload, the cost of refusals is taken from answers: they need no task and no body.
        """
        path = self._below_root(path)
        by_method = find(path) if len(path) <= MAX_PATH_CHARS else {}
        found = by_method.get("GET" if method == "HEAD" else method)
        dialect = (found or next(iter(by_method.values()), _NOWHERE)).route.dialect
        address = client_of(peer, headers.get(b"x-forwarded-for"), self._proxies)
        call = Call(self._request_id(headers), method, path, headers, address, address, time.monotonic(), found, dialect)
        try:
            self._admit(call, by_method)
        except Refusal as refusal:
            self.refuse(call, refusal)
        except Exception:
            logger.exception("request %s failed", call.id)
            self.refuse(call, failed(call))
        return call

    def _admit(self, call: Call, by_method: Mapping[str, Found]) -> None:
        if call.found is None or call.found.route.does not in _HEALTH:  # probes come by address
            require_host(call.headers.get(b"host"), self._hosts)
        if call.method == "OPTIONS" and by_method:
            self._replied(call, Reply(204, b""))
        elif call.found is None and by_method:
            raise Refusal(Reason.METHOD, f"the method must be {' or '.join(sorted(by_method))}")
        elif call.found is None:
            raise Refusal(Reason.NOT_FOUND, "no such route; GET /docs lists the routes")
        else:
            call.client = self.access.require(call.found.route.audience, call.headers.get(b"authorization")) or call.client
            if call.found.route.does == "infer":
                model = call.model = self._model(call.found.name, call.found.version)
                call.deadline_s = deadline_of(call.headers, model.limits.deadline_ms)
                model.require_answering()
                model.batcher.admission.let_in(call.client, deadline_s=call.deadline_s)

    async def answer(self, call: Call, body: bytearray, is_wanted: Callable[[], bool] = lambda: True) -> Reply:
        """Return the answer to a call whose head did not decide it; never raises."""
        try:
            return self._replied(call, await self._answer(call, call.found or _NOWHERE, body, is_wanted))
        except Refusal as refusal:
            return self.refuse(call, refusal)
        except Exception:
            logger.exception("request %s failed", call.id)
            return self.refuse(call, failed(call))

    def refuse(self, call: Call, refusal: Refusal) -> Reply:
        """Return the refusal of a call that has no reply yet."""
        return self._replied(call, _refused(call.dialect, refusal))

    def _replied(self, call: Call, reply: Reply) -> Reply:
        call.reply = reply
        protocol = call.dialect.name if call.found and call.found.route.does == "infer" else "other"
        seconds = time.monotonic() - call.began
        self.metrics.count_request(protocol, call.model.name if call.model else "", reply.status, seconds)
        if self.settings.log_requests:
            self._log.write(call, reply.status, seconds)
        return reply

    def headers_of(self, call: Call, reply: Reply) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer."""
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", b"%d" % len(reply.body)),
            (b"x-request-id", call.id.encode()),
            *reply.headers,
        ]
        origin = call.headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") in self.settings.cors_origins:
            headers += [(b"access-control-allow-origin", origin), (b"vary", b"origin"), *_CORS]
        return headers

    async def _answer(self, call: Call, found: Found, body: bytearray, is_wanted: Callable[[], bool]) -> Reply:
        match found.route.does:
            case "infer":
                return await self._infer(call, call.model or self._model(None), body, is_wanted)
            case "reload":
                return await self._reload(body)
            case "ready":
                if self.is_draining:
                    raise Refusal(Reason.NOT_READY, "the server is shutting down")
                named = self._model(found.name, found.version)
                for model in (named,) if found.name else self.models.values():
                    model.require_answering()
                return json_reply({"ready": True})
            case "live":
                for model in self.models.values():
                    model.require_answering()
                return json_reply({"live": True})
            case "model_metadata":
                return json_reply(metadata(self._model(found.name, found.version)))
            case "info":
                return json_reply(info(self.models, self._model(None)))
            case "metrics":
                return Reply(200, self.metrics.text(), METRICS_TYPE)
            case other:
                return self.fixed[other]

    async def _infer(self, call: Call, model: Model, body: bytearray, is_wanted: Callable[[], bool]) -> Reply:
        dialect, engine = call.dialect, model.engine

        def read() -> Query:
            if not is_wanted():
                raise Refusal(Reason.GONE, "the client disconnected")
            return dialect.read(bytes(body), call.headers, max_texts=model.limits.max_texts)

        query = await self._desk.read(read, client=call.client, size=len(body))
        body.clear()  # while the texts wait, they are in memory once
        if self.settings.log_texts:
            self._log.write_texts(call, query.texts)
        model.require_acceptable(query.texts)
        left_s = call.deadline_s - (time.monotonic() - call.began)  # reading the body counts
        if left_s <= 0:
            raise late()
        try:
            answers = await model.answer(
                engine, query.texts, client=call.client, truncate=query.truncate, deadline_s=left_s, is_wanted=is_wanted
            )
        except (DatasetError, SettingsError):
            raise Refusal(Reason.INVALID, "a text cannot be encoded, or this model does not take pairs of texts") from None
        reply = dialect.write(query, answers, engine, model.name)
        if in_windows := sum(answer.num_windows > 1 for answer in answers):
            self.metrics.in_windows.labels(model.name).inc(in_windows)
        if cut := sum(answer.was_cut for answer in answers):
            self.metrics.cut.labels(model.name).inc(cut)
            reply = replace(reply, headers=(*reply.headers, (b"x-truncated-texts", b"%d" % cut)))
        return reply

    async def _reload(self, body: bytearray) -> Reply:
        try:
            wanted = decoded(_RELOAD, bytes(body).strip() or b"{}", once=(b'"model"', b'"bundle"'))
        except Refusal:
            raise Refusal(Reason.MALFORMED, 'the body may hold "model" and "bundle", both strings') from None
        model = self._model(wanted.model)
        try:
            engine = await model.reload(Path(wanted.bundle) if wanted.bundle else None)
        except (PotstillError, OSError):
            raise Refusal(Reason.CONFLICT, "the bundle was refused and the old one is still served; see the log") from None
        return json_reply({"model": model.name, "version": engine.version})

    async def reload_all(self) -> None:
        """Read the tokens and the folder of every bundle again; what fails is logged and stays as it was."""
        try:
            self.access = Access.of(self.settings, self.environment)
        except SettingsError as exc:
            logger.warning("the tokens were not read again: %s", exc)
        for model in self.models.values():
            await asyncio.gather(model.reload(), return_exceptions=True)  # the model logs its failure

    def close(self) -> None:
        """Let the engines finish the waiting requests."""
        for model in self.models.values():
            model.batcher.close()
        self._desk.close()

    def _model(self, name: str | None, version: str | None = None) -> Model:
        """Return the model of this name, or the default model."""
        model = self.models.get(name) if name else next(iter(self.models.values()))
        if model is None or version not in (None, "1"):
            raise Refusal(Reason.NOT_FOUND, "there is no such model")
        return model

    def _below_root(self, path: str) -> str:
        """Return a path without the root path, which some proxies remove and others do not."""
        root = self.settings.root_path
        return path[len(root) :] or "/" if root and (path == root or path.startswith(root + "/")) else path

    def _request_id(self, headers: Headers) -> str:
        given = headers.get(b"x-request-id", b"").decode("ascii", "replace")
        # Only harmless characters: a client must not be able to forge a log line.
        if given and len(given) <= 64 and given.replace("-", "").replace("_", "").isalnum():
            return given
        return f"{next(self.ids):x}"


def failed(call: Call) -> Refusal:
    """Return the refusal of a call that failed by a fault of the server."""
    return Refusal(Reason.FAILED, f"internal error; the server's log names request {call.id}")


def _refused(dialect: Dialect, refusal: Refusal) -> Reply:
    """Return the protocol's error, with the header that says what to do next."""
    reply = dialect.refuse(refusal)
    if refusal.retry_after_s is not None:
        return replace(reply, headers=(*reply.headers, (b"retry-after", b"%d" % refusal.retry_after_s)))
    if refusal.reason is Reason.UNAUTHORIZED:
        return replace(reply, headers=(*reply.headers, (b"www-authenticate", b"Bearer")))
    return reply
