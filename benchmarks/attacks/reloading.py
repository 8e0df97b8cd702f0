"""Attacks by reloads: storms of them."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from contextlib import suppress

from benchmarks.attacks.wire import ADMIN_TOKEN, Seen, Target, ask, whole

VOLLEY = 30
RELOAD = whole("POST", "/admin/reload", f"authorization: Bearer {ADMIN_TOKEN}", body=b"{}")
STABLE_S = 2.0


async def reload_storm(target: Target) -> Seen:
    """Ask for many reloads at once; most must be refused, not run one after the other."""
    seen = Seen()
    volleys = await asyncio.gather(*(ask(target, [RELOAD], allowed=(200, 409), first_s=30.0) for _ in range(VOLLEY)))
    for each in volleys:
        seen.add(each)
    if seen.statuses[200] > VOLLEY / 3:
        seen.broken["most of the reloads of a storm were run"] += 1
    return seen


async def signal_storm(target: Target) -> Seen:
    """Send many SIGHUP; the reloads must end soon after the signals do."""
    seen = Seen()
    for _ in range(VOLLEY):
        target.server.send(signal.SIGHUP)
        await asyncio.sleep(0.02)
    until = time.monotonic() + target.patience_s
    before, since = -1, time.monotonic()
    while time.monotonic() < until:
        done = await asyncio.to_thread(_reloads, target)
        if done != before:
            before, since = done, time.monotonic()
        if done and time.monotonic() - since > STABLE_S:
            return seen
        await asyncio.sleep(0.2)
    seen.broken["reloads went on after the signals"] += 1
    return seen


def _reloads(target: Target) -> int:
    with suppress(OSError):
        text = target.server.ask("GET", "/metrics")[1].decode()
        return sum(int(float(each)) for each in re.findall(r"^potstill_reloads_total\{[^}]*\} (\S+)$", text, re.MULTILINE))
    return -1
