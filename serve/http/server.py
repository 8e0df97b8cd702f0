"""The server: uvicorn with our connections, signals and an orderly shutdown."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import signal
import ssl
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

from distill.errors import SettingsError, requires
from serve.http.app import App
from serve.http.connection import Answering, Connection
from serve.http.crowd import Crowd, network_of
from serve.http.handshake import Handshake
from serve.settings import ServeSettings

with requires("serving"):
    import uvicorn
    from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE_BLOCK_BYTES = 1 << 17
GC_THRESHOLDS = (20_000, 20, 100)
"""Net allocations before a young collection, and collections of one generation before the next one is collected."""
OTHER_FILES = 256
"""Files that the server opens beside its connections, at most."""
LAST_ANSWERS_S = 0.3
"""Seconds that open connections may still ask after the server stopped accepting new ones."""


class Server(uvicorn.Server):
    """uvicorn's server, with our signals and shutdown."""

    def __init__(self, app: App, settings: ServeSettings, *, wrapped: Answering | None = None) -> None:
        """Serve the application; `wrapped` is called in its place and calls it."""
        super().__init__(
            uvicorn.Config(
                app,  # called by the connections, not by uvicorn
                host=settings.host,
                port=settings.port,
                uds=str(settings.uds) if settings.uds else None,
                http=self._connection,  # type: ignore[arg-type]
                loop="uvloop" if sys.platform != "win32" else "asyncio",
                ws="none",
                proxy_headers=False,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
            )
        )
        self._app = app
        self._answering: Answering = wrapped or app
        share = None if settings.is_local else -(-settings.max_connections // 4)
        self._crowd = Crowd(
            most=settings.max_connections,
            most_per_address=settings.max_connections_per_address or share,
            most_body_bytes=max(settings.max_all_bodies_bytes, settings.max_body_bytes),
            proxies=frozenset(map(network_of, settings.trusted_proxies)),
        )
        self._settings = settings
        self._tls: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reload_task: asyncio.Task[None] | None = None
        self._reload_is_due = False

    def _connection(self, *, server_state: ServerState, **_: Any) -> asyncio.BaseProtocol:
        connection = Connection(self._answering, crowd=self._crowd, state=server_state, settings=self._settings)
        if self._tls is None:
            return connection
        return Handshake(connection, crowd=self._crowd, context=self._tls, timeout_s=self._settings.body_timeout_s)

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and reload on SIGHUP.

        Raises:
            SettingsError: The address cannot be listened on, such as a port in use.
        """
        self._tls, self.config.ssl = self.config.ssl, None  # connections begin TLS themselves
        try:
            await super().startup(sockets)
        except SystemExit as exc:  # uvicorn has logged the reason
            place = self._settings.uds or f"{self._settings.host}:{self._settings.port}"
            flag = "--uds" if self._settings.uds else "--port"
            raise SettingsError(f"cannot listen on {place}; choose another {flag}, or stop the server that uses it") from exc
        if self._settings.uds is not None:
            self._settings.uds.chmod(0o660)  # uvicorn lets every user connect
        self._loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            with suppress(RuntimeError, ValueError):  # not in the main thread
                self._loop.add_signal_handler(signal.SIGHUP, self._reload)

    async def on_tick(self, counter: int) -> bool:
        """Do what uvicorn does ten times a second; once a second, close connections whose clients take too long."""
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.close_if_late()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down in order on the first signal: not ready, no new connections, exit. Exit at once on the second."""
        if self._app.is_draining:
            self.should_exit = self.force_exit = True
            return
        self._app.is_draining = True
        logger.info("shutting down: not ready; new connections are accepted for %.1f s", self._settings.drain_s)
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._settings.drain_s, setattr, self, "should_exit", True)

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop accepting connections; answer once more on open ones, with `connection: close`; then close them."""
        # Clients are told to close only now. Told earlier, they would open new connections, and those in the accept queue are
        # reset when the listening socket closes. A connection that is closed while idle may have a request on its way.
        self._app.is_closing = True
        for server in self.servers:
            server.close()
        if self.server_state.connections and not self.force_exit:
            await asyncio.sleep(LAST_ANSWERS_S)
        await super().shutdown(sockets)

    def _reload(self) -> None:
        """Reload, once more where a reload is under way, however many signals come."""
        self._reload_is_due = True
        if self._reload_task is None or self._reload_task.done():
            self._reload_task = asyncio.get_running_loop().create_task(self._reload_while_due())

    async def _reload_while_due(self) -> None:
        while self._reload_is_due:
            self._reload_is_due = False
            if self._tls is not None:
                self._reload_certificate(self._tls)
            await self._app.reload_all()

    def _reload_certificate(self, context: ssl.SSLContext) -> None:
        """Read the certificate and key again, for new connections; a pair that does not fit changes nothing."""
        certificate, key = self._settings.tls_certificate, self._settings.tls_key
        try:
            for each in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
                each.load_cert_chain(str(certificate), None if key is None else str(key))
        except OSError as exc:  # an SSLError is one
            logger.warning("the certificate was not read again: %s", exc)

    @property
    def url(self) -> str:
        """The address it listens on, once it does."""
        if self._settings.uds is not None:
            return f"unix:{self._settings.uds}"
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"{'https' if self.config.is_ssl else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def _log_started_message(self, listeners: Any) -> None:
        logger.info("serving %s on %s", ", ".join(self._app.models), self.url)


def freeze_garbage_collection() -> None:
    """Exclude all present objects from garbage collection, and collect less often.

    A full collection of the objects of all modules stops every thread for 25 ms; reference counting frees nearly everything
    that requests allocate.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def return_large_blocks() -> None:
    """Let glibc give large blocks back to the system when they are freed, always, not only until the first one is.

    It raises the size of what it gives back then, up to 32 MB, so that most of what a reload frees would stay. Elsewhere
    nothing is changed.
    """
    if sys.platform == "linux":
        # Another C library has no such function.
        getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def allow_open_files(connections: int) -> None:
    """Raise the limit of open files, so that no connection within the server's own limit fails for want of one.

    Raises:
        SettingsError: The system allows fewer.
    """
    if sys.platform == "win32":
        return
    import resource

    wanted = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SettingsError(
            f"this process may open {hard} files, and --max-connections {connections} needs {wanted}; raise the limit "
            f"(ulimit -Hn, LimitNOFILE=) or set --max-connections {max(1, hard - OTHER_FILES)}"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(app: App, settings: ServeSettings) -> int:
    """Serve until a signal; return 0, or 1 after a second signal."""
    allow_open_files(settings.max_connections)
    freeze_garbage_collection()
    wrapped = None
    if settings.telemetry:
        from serve.http.tracing import Traced, exporters

        tracers, meters = exporters()
        wrapped = Traced(app, tracers.get_tracer("potstill"), None if meters is None else meters.get_meter("potstill"))
    server = Server(app, settings, wrapped=wrapped)
    server.run()
    if not server.force_exit:
        app.close()
    return int(server.force_exit)
