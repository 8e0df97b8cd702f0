"""One attack beside honest clients: start a server, attack it while others ask, and judge."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.attacks.guards import GUARDS
from benchmarks.attacks.wire import ADMIN_TOKEN, TOKEN, Seen, Target, program, texts_body, whole
from benchmarks.peers.servers import SERVERS
from benchmarks.peers.servers.protocol import ServerPeer, Start
from benchmarks.serving.comparing import labels_of
from benchmarks.serving.generator import Load
from benchmarks.serving.load import Samples, run, running
from benchmarks.serving.ours import watched
from benchmarks.serving.servers import started

HONEST_ADDRESS = "127.0.0.2"
DEADLINE_MS = 2000
"""Of an honest request: the server's default."""
LEAST_SHARE = 0.99
MOST_GROWTH_BYTES = 64 << 20
PROMISED_ERRORS = (503, 504)
MEMORY_EVERY_S = 0.05

FLAGS: Mapping[str, str] = {
    "--body-timeout-s": "2",
    "--keep-alive-s": "3",
    "--max-connections": "400",
    "--max-connections-per-address": "100",
}
"""Shorter than the defaults, so that an attack takes seconds; a quarter of the connections for one address is the default
where other machines can connect."""
PATIENCE_S = 7.0
"""The longer of the two timeouts, and more for a machine that is busy."""


@dataclass(frozen=True)
class Attack:
    """One class of attacks.

    Attributes:
        name: Its name.
        group: What it is about.
        tries: What it tries.
        guard: The guard that stops it.
        act: Attacks once.
        needs: Of "tokens", "admin", "tls", "log": what the server is started with.
        flags: Further flags.
    """

    name: str
    group: str
    tries: str
    guard: str
    act: Callable[[Target], Awaitable[Seen]]
    needs: frozenset[str] = frozenset()
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How much of each attack.

    Attributes:
        seconds: How long it is repeated, and how long a flood lasts.
        rate: Requests a second of the honest clients.
        connections: Their connections.
    """

    seconds: float = 6.0
    rate: float = 40.0
    connections: int = 8


QUICK = Plan(seconds=2.0, rate=30.0)


@dataclass(frozen=True)
class Honest:
    """What honest clients ask, and the labels that they must get."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]


def attempt(attack: Attack, bundle: Path, honest: Honest, plan: Plan, *, is_guarded: bool = True) -> dict[str, Any]:
    """Attack once and return the row: what was seen, and why it was not survived, if so.

    Args:
        attack: Which.
        bundle: What is served.
        honest: The honest clients.
        plan: How much.
        is_guarded: Run the server with the guard of this attack.
    """
    peer = SERVERS["potstill"]
    token = {"authorization": f"Bearer {TOKEN}"} if "tokens" in attack.needs else {}
    lines = [f"{name}: {value}" for name, value in token.items()]
    requests = tuple(whole("POST", peer.path, *lines, body=peer.request_body(text)) for text in honest.texts)
    seen = Seen()
    with serving(attack, bundle, is_guarded=is_guarded) as target:
        load = Load(
            target.server.port,
            requests,
            plan.connections,
            plan.seconds,
            rate=plan.rate,
            timeout_s=5.0,
            source=HONEST_ADDRESS,
            has_tls=target.has_tls,
        )
        _warm_up(load, lines, honest)
        before, began = target.server.memory_bytes(), time.monotonic()
        with watched(target.server, every_s=MEMORY_EVERY_S) as memory, running(load) as asking:
            target = replace(target, seconds=plan.seconds)
            asyncio.run(_repeat(attack, target, seen, until=time.monotonic() + plan.seconds))
            samples = asking.wait()
        after = _state_after(target, token)
    row = {
        "kind": "attack" if is_guarded else "without_guard",
        "name": attack.name,
        "group": attack.group,
        "tries": attack.tries,
        "guard": GUARDS[attack.guard].where,
        "seconds": time.monotonic() - began,
        "connections": seen.connections,
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "broken_promises": dict(seen.broken),
        "honest": _honest(samples, honest, peer),
        "memory_before_bytes": before,
        "memory_growth_bytes": max(memory, default=before) - before,
        **after,
    }
    failures = failures_of(row)
    return {**row, "survived": not failures, "failures": failures}


def failures_of(row: Mapping[str, Any]) -> list[str]:
    """Return why an attack was not survived."""
    honest, failures = row["honest"], list(row["broken_promises"])
    if honest["answered_share"] < LEAST_SHARE:
        failures.append(f"{honest['answered_share']:.1%} of the honest requests were answered rightly in time")
    if row["memory_growth_bytes"] > MOST_GROWTH_BYTES:
        failures.append(f"memory grew by {row['memory_growth_bytes'] / 2**20:.0f} MB")
    if honest["wrong"]:
        failures.append(f"{honest['wrong']} wrong answers")
    if row["unpromised_errors"]:
        failures.append(f"{row['unpromised_errors']} answers with an unpromised 5xx status")
    if not row["answers_afterwards"]:
        failures.append("the server does not answer afterwards")
    return failures


@contextmanager
def serving(attack: Attack, bundle: Path, *, is_guarded: bool) -> Iterator[Target]:
    """Start the server that an attack needs, with its guard or without."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        guard = GUARDS[attack.guard]
        flags = {**FLAGS, **attack.flags, **_files(attack, work)}
        if not is_guarded:
            flags |= dict(zip(guard.arguments[::2], guard.arguments[1::2], strict=True))
        removed = None if is_guarded else attack.guard
        arguments = tuple(word for flag in flags.items() for word in flag if word)

        def command(start: Start) -> list[str]:
            return [
                sys.executable,
                "-m",
                *program("serve", removed),
                str(start.folder),
                "--port",
                str(start.port),
                *arguments,
            ]

        peer = replace(SERVERS["potstill"], command=command, has_tls="tls" in attack.needs)
        with started(peer, bundle, {}) as server:
            yield Target(server, bundle.name, bundle, work, 0.0, PATIENCE_S, peer.has_tls, removed)


def _files(attack: Attack, work: Path) -> dict[str, str]:
    """Return the flags of what an attack needs, and write their files."""
    flags: dict[str, str] = {}
    for need, token in (("tokens", TOKEN), ("admin", ADMIN_TOKEN)):
        if need in attack.needs:
            (work / need).write_text(token + "\n")
            flags["--token-file" if need == "tokens" else "--admin-token-file"] = str(work / need)
    if "tls" in attack.needs:
        certificate, key = _write_certificate(work)
        flags |= {"--tls-certificate": str(certificate), "--tls-key": str(key)}
    if "log" in attack.needs:
        flags["--log-requests"] = ""
    return flags


def _write_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate and its key with the system's openssl, and return their paths."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]  # a fast one
    command += ["-subj", "/CN=localhost", "-days", "1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def _warm_up(load: Load, lines: list[str], honest: Honest) -> None:
    """Let the server see what it will see, and its largest honest work, so that memory counts from there."""
    large = texts_body([" ".join(honest.texts[:50]), *honest.texts[:63]])
    run(replace(load, requests=(*load.requests[:50], whole("POST", "/predict", *lines, body=large)), seconds=1.5, rate=None))


async def _repeat(attack: Attack, target: Target, seen: Seen, *, until: float) -> None:
    seen.add(await attack.act(target))
    while time.monotonic() < until and not seen.broken:
        seen.add(await attack.act(target))


def _state_after(target: Target, token: Mapping[str, str]) -> dict[str, Any]:
    """Return whether the server still answers, and how many unpromised errors it counted."""
    if target.server.process.poll() is not None:
        return {"answers_afterwards": False, "unpromised_errors": 0, "exit_code": target.server.process.returncode}
    try:
        ready = target.server.ask("GET", "/health/ready")[0]
        metrics = target.server.ask("GET", "/metrics", headers=token)[1].decode()
    except OSError:
        return {"answers_afterwards": False, "unpromised_errors": 0, "exit_code": None}
    errors: Counter[int] = Counter()
    for status, count in re.findall(r'^potstill_requests_total\{[^}]*status="(5\d\d)"\} (\S+)$', metrics, re.MULTILINE):
        errors[int(status)] += int(float(count))
    return {
        "answers_afterwards": ready == 200,
        "unpromised_errors": sum(count for status, count in errors.items() if status not in PROMISED_ERRORS),
        "exit_code": None,
    }


def _honest(samples: Samples, honest: Honest, peer: ServerPeer) -> dict[str, Any]:
    given, count = labels_of(peer, samples), len(honest.labels)
    wanted = [honest.labels[number % count] for number in range(len(given))]
    right = sum(label == want and ms <= DEADLINE_MS for label, want, ms in zip(given, wanted, samples.latency_ms, strict=True))
    wrong = sum(label != want for label, want, status in zip(given, wanted, samples.status, strict=True) if status == 200)
    latency = samples.latency_ms[samples.status == 200]
    return {
        "requests": len(given),
        "answered_share": right / max(1, len(given)),
        "wrong": wrong,
        "statuses": samples.statuses(),
        "worst_ms": float(latency.max(initial=0.0)),
    }
