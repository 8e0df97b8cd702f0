"""Servers as rows of the `serving` scenario, a module with `PEER` each: how one is started, asked and read."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.peers.servers.protocol import ServerPeer

OURS = "potstill"
_MODULES = [importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__) if not each.ispkg]
SERVERS: dict[str, ServerPeer] = {module.PEER.name: module.PEER for module in _MODULES if hasattr(module, "PEER")}
"""By name."""
