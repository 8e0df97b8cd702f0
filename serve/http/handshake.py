"""TLS before HTTP: a connection counts, and its time runs, from its first byte and not only once it is encrypted."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from serve.http.connection import Connection
from serve.http.crowd import Crowd, address_of


class Handshake(asyncio.Protocol):
    """A connection until TLS is agreed on; then `connection` takes its place."""

    def __init__(self, connection: Connection, *, crowd: Crowd, context: ssl.SSLContext, timeout_s: float) -> None:
        """Make the protocol of one connection, which has `timeout_s` for the handshake."""
        self._connection, self._crowd, self._context, self._timeout_s = connection, crowd, context, timeout_s
        self._transport = cast(asyncio.Transport, None)
        self._early = b""
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place among the connections and begin, or close where there is none."""
        self._transport = cast(asyncio.Transport, transport)
        self.address = address_of(transport.get_extra_info("peername"))
        if self._crowd.enter(self):
            self._task = self._connection.loop.create_task(self._begin())
        else:
            self.give_way()

    def data_received(self, data: bytes) -> None:
        """Keep what is read before TLS takes over, and what comes behind the last message of the handshake."""
        self._early += data

    def give_way(self) -> None:
        """Close at once, without an answer."""
        self._transport.abort()

    async def _begin(self) -> None:
        loop = self._connection.loop
        agreed = loop.create_task(
            loop.start_tls(self._transport, self, self._context, server_side=True, ssl_handshake_timeout=self._timeout_s)
        )
        await asyncio.sleep(0)  # now it has scheduled its own start
        loop.call_soon(self._feed, agreed)
        try:
            encrypted = await agreed
        except OSError:  # it timed out, is not TLS, or the client left
            self._transport.abort()
            return
        finally:
            self._crowd.leave(self)
        if encrypted is None or encrypted.is_closing():
            self._transport.abort()
            return
        encrypted.set_protocol(self._connection)
        self._connection.connection_made(encrypted)
        self._connection.take(self._early)

    def _feed(self, agreed: asyncio.Task[asyncio.Transport | None]) -> None:
        """Give TLS what was read before it took over: uvloop starts to read whatever `connection_made` asks for."""
        tls = cast(asyncio.BufferedProtocol, self._transport.get_protocol())
        early, self._early = self._early, b""
        while early and not agreed.done():
            room = memoryview(tls.get_buffer(len(early)))
            count = min(len(room), len(early))
            room[:count] = early[:count]
            tls.buffer_updated(count)
            early = early[count:]
