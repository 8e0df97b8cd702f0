"""Servers as rows of the `serving` scenario: how each is started, asked and read."""

from __future__ import annotations

from benchmarks.peers.servers import infinity, litserve, mlserver, potstill
from benchmarks.peers.servers.protocol import ServerPeer

SERVERS: dict[str, ServerPeer] = {each.name: each for each in (potstill.PEER, infinity.PEER, litserve.PEER, mlserver.PEER)}
"""By name; the first is ours."""
