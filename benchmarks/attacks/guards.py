"""The guards, and how each is switched off for the demonstration that an attack succeeds without it.

Where a setting is the guard, it is set to practically no limit. Else this module, which starts the server, or `potstill score`,
in place of the command, replaces the part that is the guard; the server itself has no such switch.
"""

from __future__ import annotations

import asyncio
import json
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill import bundle, tokenization
from distill.manifest import FileEntry, Manifest
from export.runtime import sessions
from serve.answering import engine, models, reading
from serve.answering import queue as queueing
from serve.bulk import inputs, parts, streams
from serve.http import access, app, connection, crowd, logs, routes, server
from serve.http.protocols import base, huggingface, oip, tei

NO_LIMIT = 1 << 40


@dataclass(frozen=True)
class Guard:
    """What stops an attack.

    Attributes:
        where: The setting or the part of the server.
        arguments: Flags that set it to practically no limit.
        remove: Takes it out of the server of this process.
    """

    where: str
    arguments: tuple[str, ...] = ()
    remove: Callable[[], object] | None = None


def _set(holder: Any, **values: Any) -> Callable[[], object]:
    def remove() -> None:
        for name, value in values.items():
            getattr(holder, name)  # a part that is gone must not pass for one that was removed
            setattr(holder, name, value)

    return remove


def _clock_per_byte() -> None:
    """Let every byte that comes start the clock of a message again, as servers with an idle timeout alone do."""
    receive = connection.Connection._receive

    def rearm(self: connection.Connection, data: memoryview) -> None:
        receive(self, data)
        if self.waits_since is not None:
            self.waits_since = time.monotonic()

    connection.Connection._receive = rearm  # type: ignore[method-assign]


def _never_pausing() -> None:
    def receive(self: connection.Connection, data: memoryview) -> None:
        self._parse(data)

    connection.Connection._receive = receive  # type: ignore[method-assign]


def _lenient() -> None:
    begin = connection.Connection.__init__

    def started(self: connection.Connection, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_keep_alive=True,
            lenient_transfer_encoding=True,
            lenient_version=True,
            lenient_data_after_close=True,
            lenient_optional_lf_after_cr=True,
            lenient_optional_cr_before_lf=True,
            lenient_optional_crlf_after_chunk=True,
            lenient_spaces_after_chunk_size=True,
        )

    connection.Connection.__init__ = started  # type: ignore[method-assign]


def _everywhere(name: str, value: Any) -> None:
    for module in (base, huggingface, oip, tei, app):
        if hasattr(module, name):
            setattr(module, name, value)


def _series_by_path() -> None:
    count = app.App._replied

    def replied(self: app.App, call: Any, reply: Any) -> Any:
        self.metrics.count_request(call.path, "", reply.status, 0.0)
        return count(self, call, reply)

    app.App._replied = replied  # type: ignore[method-assign]


def _one_client() -> None:
    submit = queueing.Batcher.submit

    async def submit_as_one(self: queueing.Batcher, *given: Any, **named: Any) -> Any:
        return await submit(self, *given, **{**named, "client": ""})

    queueing.Batcher.submit = submit_as_one  # type: ignore[method-assign]
    begin = app.App._admit

    def admit(self: app.App, call: Any, by_method: Any) -> None:
        client, call.client = call.client, ""
        begin(self, call, by_method)
        call.client = call.client or client

    app.App._admit = admit  # type: ignore[method-assign]


def _whole_texts() -> None:
    _one_client()
    _set(tokenization.TextTokenizer, is_long=lambda *_: False)()


def _every_reload() -> None:
    models.Model.reload = models.Model._reload  # type: ignore[method-assign,assignment]


def _every_signal() -> None:
    _every_reload()

    def reload(self: server.Server) -> None:
        task = asyncio.get_running_loop().create_task(self._app.reload_all())
        self._state_tasks = [*getattr(self, "_state_tasks", ()), task]  # type: ignore[attr-defined]

    server.Server._reload = reload  # type: ignore[method-assign]


def _plain_handshakes() -> None:
    def connection_of(self: server.Server, *, server_state: Any, **_: Any) -> Any:
        return connection.Connection(self._answering, crowd=self._crowd, state=server_state, settings=self._settings)

    async def startup(self: server.Server, sockets: Any = None) -> None:
        await super(server.Server, self).startup(sockets)

    server.Server._connection = connection_of  # type: ignore[method-assign]
    server.Server.startup = startup  # type: ignore[method-assign]


def _upgraded_stays() -> None:
    complete = connection.Connection.on_headers_complete

    def on_headers_complete(self: connection.Connection) -> None:
        complete(self)
        if self._message is not None and self._parser.should_upgrade():
            self._message.is_last = False

    connection.Connection.on_headers_complete = on_headers_complete  # type: ignore[method-assign]


def _refusing(_: crowd.Crowd, address: str | None = None) -> bool:  # noqa: ARG001
    return False


def _without_freeing(self: crowd.Crowd, member: crowd.Member) -> None:
    self.waiting.pop(member, None)


def _page_for_any_path() -> None:
    _set(app, find=lambda path: routes.find(path) or routes.find("/"))()


def _any_file_name() -> None:
    def from_bytes(content: bytes, *, source: Path) -> Manifest:  # noqa: ARG001
        values = json.loads(content)
        files = {name: FileEntry(**entry) for name, entry in values.pop("files").items()}
        return Manifest.model_validate({name: value for name, value in values.items() if name != "sha256"}).model_copy(
            update={"files": files}
        )

    Manifest.from_bytes = from_bytes  # type: ignore[method-assign]


_Connection = connection.Connection
GUARDS: dict[str, Guard] = {
    "head_bytes": Guard("serve.http.connection.MAX_HEAD_BYTES", remove=_set(connection, MAX_HEAD_BYTES=NO_LIMIT)),
    "header_count": Guard("serve.http.connection.MAX_HEADERS", remove=_set(connection, MAX_HEADERS=NO_LIMIT)),
    "message_time": Guard("--body-timeout-s", ("--body-timeout-s", "100000")),
    "message_clock": Guard("one clock per head and body, not per byte (Connection.waits_since)", remove=_clock_per_byte),
    "idle_time": Guard("--keep-alive-s", ("--keep-alive-s", "100000")),
    "discarded_bytes": Guard(
        "serve.http.connection.MAX_HEAD_BYTES and --body-timeout-s",
        ("--body-timeout-s", "100000"),
        _set(connection, MAX_HEAD_BYTES=NO_LIMIT),
    ),
    "blank_lines": Guard(
        "serve.http.connection.MAX_HEAD_BYTES and --keep-alive-s",
        ("--keep-alive-s", "100000"),
        _set(connection, MAX_HEAD_BYTES=NO_LIMIT),
    ),
    "discarded_body": Guard(
        "--max-body-bytes and --body-timeout-s", ("--max-body-bytes", str(NO_LIMIT), "--body-timeout-s", "100000")
    ),
    "body_bytes": Guard("--max-body-bytes", ("--max-body-bytes", str(NO_LIMIT))),
    "strict_parser": Guard("httptools without leniencies", remove=_lenient),
    "refusal_ends": Guard(
        "what is no request ends its connection (Connection._fail)", remove=_set(_Connection, _fail=lambda *_: None)
    ),
    "unread_bytes": Guard("serve.http.connection.MAX_UNSENT_BYTES", remove=_set(connection, MAX_UNSENT_BYTES=1 << 30)),
    "paused_reading": Guard("no reading while an answer is due (Connection._receive)", remove=_never_pausing),
    "all_connections": Guard("--max-connections", ("--max-connections", "15000")),
    "connections_per_address": Guard("--max-connections-per-address", ("--max-connections-per-address", "15000")),
    "places_for_new": Guard("at the cap the connection that waits longest goes", remove=_set(crowd.Crowd, _give_way=_refusing)),
    "freed_places": Guard("a closed connection frees its place", remove=_set(crowd.Crowd, leave=_without_freeing)),
    "end_of_sending": Guard("a half-closed connection ends", remove=_set(_Connection, eof_received=lambda _: True)),
    "gone_clients": Guard(
        "requests of clients that are gone are not computed", remove=_set(_Connection, _is_wanted=lambda _: True)
    ),
    "text_count": Guard("--max-texts", ("--max-texts", "100000000", "--max-queue", "100000000")),
    "text_chars": Guard("--max-text-chars", ("--max-text-chars", "1000000000")),
    "turns": Guard("clients take turns, and have their share of the queue", remove=_one_client),
    "beginnings": Guard("of a text that is cut only the beginning is encoded; clients take turns", remove=_whole_texts),
    "own_errors": Guard("a text fails its own request only", remove=_set(reading, _error_of=lambda _: None)),
    "strict_json": Guard(
        "what cannot be decoded is a refusal",
        remove=lambda: _everywhere("decoded", lambda decoder, body, once: decoder.decode(body)),  # noqa: ARG005
    ),
    "unique_names": Guard("a name twice is refused", remove=lambda: _everywhere("require_unique_names", lambda _: None)),
    "tokens": Guard("tokens are compared whole", remove=_set(access, place_of=lambda header, _: 0 if header else None)),
    "admin_tokens": Guard("admin routes have tokens of their own", remove=_set(access.Access, require=lambda *_: "")),
    "host_names": Guard("--allowed-hosts", remove=_set(app, allowed_hosts=lambda _: None)),
    "origins": Guard("--cors-origins", ("--cors-origins", "https://evil.example")),
    "forwarded": Guard("--trusted-proxies", ("--trusted-proxies", "127.0.0.1")),
    "log_lines": Guard("what a client sent is escaped in the log", remove=_set(logs, escaped=lambda text: text)),
    "request_ids": Guard(
        "request ids of harmless characters only",
        remove=_set(app.App, _request_id=lambda _, headers: headers.get(b"x-request-id", b"none").decode("latin-1")),
    ),
    "upgraded_ends": Guard(
        "a request for an upgrade is the last of its connection, and --keep-alive-s",
        ("--keep-alive-s", "100000", "--body-timeout-s", "100000"),
        _upgraded_stays,
    ),
    "fixed_routes": Guard("an unknown path is a refusal", remove=_page_for_any_path),
    "cached_paths": Guard(
        "few and short paths are cached",
        remove=_set(app, MAX_PATH_CHARS=NO_LIMIT, find=lru_cache(None)(routes.find.__wrapped__)),
    ),
    "metric_labels": Guard("metrics by route and status, not by what a client names", remove=_series_by_path),
    "few_reloads": Guard("one reload of a model runs and one waits", remove=_every_reload),
    "few_signals": Guard("signals during a reload become one more", remove=_every_signal),
    "digests": Guard("sha256 of every file", remove=_set(bundle, _require_digest=lambda *_: None)),
    "reload_time": Guard("--reload-timeout-s", ("--reload-timeout-s", "100000")),
    "manifest_bytes": Guard("distill.bundle.MAX_MANIFEST_BYTES", remove=_set(bundle, MAX_MANIFEST_BYTES=256 << 20)),
    "self_check": Guard("the self-check before a bundle is served", remove=_set(engine.Engine, self_check=lambda *_: None)),
    "graph_limits": Guard(
        "export.runtime.graph_limits, and --reload-timeout-s",
        ("--reload-timeout-s", "100000"),
        _set(sessions, require_runnable=lambda *_: None),
    ),
    "tokenizer_limits": Guard("distill.tokenizer_limits", remove=_set(tokenization, require_bounded=lambda *_, **__: None)),
    "handshakes": Guard("a TLS handshake is a connection and has --body-timeout-s", remove=_plain_handshakes),
    "chunk_count": Guard("serve.http.connection.FEW_CHUNKS", remove=_set(connection, FEW_CHUNKS=NO_LIMIT)),
    "file_names": Guard("names of files without folders (distill.manifest.FileName)", remove=_any_file_name),
    "line_chars": Guard("serve.bulk.inputs.MIN_LINE_CHARS", remove=_set(inputs, MIN_LINE_CHARS=NO_LIMIT)),
    "expansion": Guard("serve.bulk.streams.MAX_RATIO", remove=_set(streams, MAX_RATIO=NO_LIMIT)),
    "decompressor": Guard("serve.bulk.streams.XZ_MEMORY_BYTES", remove=_set(streams, XZ_MEMORY_BYTES=NO_LIMIT)),
    "dictionaries": Guard("serve.bulk.parts.MAX_DICTIONARY_BYTES", remove=_set(parts, MAX_DICTIONARY_BYTES=NO_LIMIT)),
    "bad_rows": Guard(
        "a row that cannot be read is a bad row", remove=_set(inputs, json_object=lambda _, __, content: json.loads(content))
    ),
    "table_links": Guard("links in a folder are not followed", remove=_set(inputs, _require_no_link=lambda *_: None)),
    "all_bodies": Guard("--max-all-bodies-bytes", ("--max-all-bodies-bytes", str(NO_LIMIT))),
}


def main(arguments: Sequence[str]) -> None:
    """Run without one guard: GUARD, then a module of ours and its arguments."""
    name, module, *rest = arguments
    if (remove := GUARDS[name].remove) is not None:
        remove()
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
