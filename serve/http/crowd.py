"""All open connections: how many there may be, how many from one address, and which one goes first when there are too many."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Container
from typing import Protocol

READ_BYTES = 16 * 1024
"""Bytes taken from a socket at once. What a client sends beyond it waits in the system's own buffer."""


class Member(Protocol):
    """A connection, as the crowd sees it."""

    address: str

    def give_way(self) -> None:
        """Close at once, without an answer."""


class Crowd:
    """The open connections of a server.

    Attributes:
        buffer: Where every connection reads: a read ends before the next one begins.
        waiting: Connections without a complete request, the one that waits longest first.
    """

    def __init__(self, *, most: int, most_per_address: int | None, most_body_bytes: int, proxies: Container[str] = ()) -> None:
        """Start empty.

        Args:
            most: Connections in all.
            most_per_address: Connections from one address; None: any number.
            most_body_bytes: Bytes of all bodies together that have arrived and are not answered.
            proxies: Addresses that may have any number.
        """
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.waiting: dict[Member, None] = {}
        self._most, self._most_per_address, self._proxies = most, most_per_address, proxies
        self._most_body_bytes = most_body_bytes
        self._body_bytes: Counter[Member] = Counter()
        self._all_body_bytes = 0
        self._open: set[Member] = set()
        self._per_address: Counter[str] = Counter()

    def enter(self, member: Member) -> bool:
        """Count a new connection, which waits; return whether there is room for it.

        Where there is none, the connection that has been without a complete head for longest gives way, of the same address
        if that has too many. A connection whose request is being answered never does.
        """
        address = member.address
        if self._is_capped(address) and self._per_address[address] >= (self._most_per_address or 0):
            if not self._give_way(address):
                return False
        elif len(self._open) >= self._most and not self._give_way():
            return False
        self._open.add(member)
        self._per_address[address] += 1
        self.waiting[member] = None
        return True

    def hold(self, member: Member, size: int) -> None:
        """Count bytes of a body that arrived.

        Where all bodies together are too large, the connection with the largest unfinished one gives way.
        """
        self._body_bytes[member] += size
        self._all_body_bytes += size
        if self._all_body_bytes > self._most_body_bytes:
            largest = max(self.waiting, key=self._body_bytes.__getitem__, default=member)
            self.leave(largest)
            largest.give_way()

    def let_go(self, member: Member) -> None:
        """Forget the bytes of a body that is answered."""
        self._all_body_bytes -= self._body_bytes.pop(member, 0)

    def leave(self, member: Member) -> None:
        """Forget a connection; one that is unknown too."""
        self.waiting.pop(member, None)
        self.let_go(member)
        if member not in self._open:
            return
        self._open.remove(member)
        self._per_address[member.address] -= 1
        if not self._per_address[member.address]:
            del self._per_address[member.address]

    def _is_capped(self, address: str) -> bool:
        return self._most_per_address is not None and bool(address) and address not in self._proxies

    def _give_way(self, address: str | None = None) -> bool:
        for member in self.waiting:
            if address is None or member.address == address:
                self.leave(member)
                member.give_way()
                return True
        return False


def address_of(peer: object) -> str:
    """Return the address of a peer name: IPv4 in full, the network of an IPv6 address, which one client may own whole.

    Empty for a unix socket.
    """
    host = peer[0] if isinstance(peer, tuple) and peer else ""
    return network_of(host) if isinstance(host, str) else ""


def network_of(host: str) -> str:
    """Return an IPv4 address as it is, the first 64 bits of an IPv6 address, and anything else as it is."""
    if ":" not in host:
        return host
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host
    if packed.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntoa(packed[12:])
    return host if packed == bytes(15) + b"\x01" else f"{packed[:8].hex(':', 2)}::"
