"""What is asked of our server alone: a tail at half load, twice too much load, reloads and SIGTERM under load, and a soak."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.peers.servers import OURS, SERVERS
from benchmarks.serving.comparing import UNTIL_DONE_S, labels_of, medians, quantiles, requests_for, warm, weighed
from benchmarks.serving.generator import REFUSED, Load
from benchmarks.serving.load import Samples, percentiles, post, run, running
from benchmarks.serving.plan import Plan, Task
from benchmarks.serving.servers import RunningServer, meanwhile
from distill.errors import PotstillError

DEADLINE_MS = 150
"""Of the requests in the overload; the server is told in their header."""

PATIENCE_S = 30.0
PEER = SERVERS[OURS]


def saturate(task: Task, plan: Plan) -> dict[str, Any]:
    """Return the row of closed loops of ever more connections: the most requests a second that the server reaches."""
    with warm(PEER, task, plan) as (_, load):
        loads = [replace(load, connections=times * plan.connections, seconds=plan.turn_s) for times in (1, 2, 4, 8)]
        tried = [{"connections": each.connections, "requests_per_second": run(each).requests_per_second} for each in loads]
    return {"kind": "saturate", **max(tried, key=lambda each: each["requests_per_second"]), "tried": tried}


def half_load(task: Task, plan: Plan, rate: float) -> dict[str, Any]:
    """Return the rows of open loops: at `rate` requests a second, half of what saturates the server, and at the fixed rate."""
    loads = {"half of the saturating load": rate, "a fixed load": plan.fixed_rate}
    return {"rows": [{"load": load, **_open_loop(task, plan, rate)} for load, rate in loads.items()]}


def _open_loop(task: Task, plan: Plan, rate: float) -> dict[str, Any]:
    """Return the row of rounds of an open loop, each with a new server; `p99_ms` is the median of the rounds'."""
    found = []
    for number in range(plan.rounds):
        with warm(PEER, task, plan) as (server, load):
            more = replace(load, connections=plan.overload_connections, seconds=plan.half_s, rate=rate, seed=number)
            found.append(weighed(server, more))
    rounds, server_cpu_us = zip(*found, strict=True)
    latencies = [samples.latency_ms for samples in rounds]
    latency_rounds = [percentiles(each) for each in latencies]
    p99s = [latency["p99_ms"] for latency in latency_rounds if latency["p99_ms"] is not None]
    return {
        "kind": "half_load",
        "rate": rate,
        "p99_ms": float(np.median(p99s)) if len(p99s) == len(rounds) else None,
        "seconds": plan.half_s * plan.rounds,
        "latency": percentiles(*latencies),
        "latency_rounds": latency_rounds,
        # Whether a bad round was one of a slow machine, or of one that stood still.
        "server_cpu_us_per_request_rounds": list(server_cpu_us),
        "latency_quantiles_ms": quantiles(np.concatenate(latencies)),
        "errors": sum(samples.failed for samples in rounds),
        "statuses_rounds": [samples.statuses() for samples in rounds],
        "generator": medians([samples.generator() for samples in rounds]),
    }


def overload(task: Task, plan: Plan, rate: float) -> dict[str, Any]:
    """Return the row of an open loop at `rate` requests a second, twice what saturates the server."""
    impatient = requests_for(PEER, task.texts, f"x-deadline-ms: {DEADLINE_MS}")
    with warm(PEER, task, plan, requests=impatient) as (server, load):
        # As heavy as what follows: memory counts from a server that has seen its worst.
        flood = replace(load, connections=plan.overload_connections, rate=rate)
        run(replace(flood, seed=1))
        with watched(server, every_s=plan.overload_s / 120) as memory:
            samples = run(replace(flood, seconds=plan.overload_s))
        recovered = _answers_rightly(server, task)
    accepted, rejected = (samples.latency_ms[samples.status == status] for status in (200, 429))
    return {
        "kind": "overload",
        "rate": rate,
        "seconds": plan.overload_s,
        "connections": plan.overload_connections,
        "deadline_ms": DEADLINE_MS,
        "statuses": samples.statuses(),
        "server_errors": int((samples.status >= 500).sum()),
        "lost": samples.lost,
        "accepted": percentiles(accepted),
        "accepted_late": int((accepted > DEADLINE_MS).sum()),
        "accepted_worst_ms": float(accepted.max(initial=0)),
        "rejected": percentiles(rejected),
        "rejected_quantiles_ms": quantiles(rejected),
        "wrong": _wrong(samples, task),
        "right_afterwards": recovered,
        "memory_growth": growth(memory),
        "memory_bytes": memory,
        "generator": samples.generator(),
    }


def reloads(task: Task, plan: Plan) -> dict[str, Any]:
    """Return the row of reloads between two bundles under load, and of SIGTERM under the same load."""
    with (
        _replaceable(task) as live,
        warm(PEER, task, plan, folder=live) as (server, load),
        running(replace(load, seconds=UNTIL_DONE_S)) as under_way,
    ):
        seconds = _reload(server, live, task, times=plan.reloads, pause_s=plan.warmup_s / 4)
        time.sleep(plan.warmup_s / 4)
        asked = time.monotonic()
        server.send(signal.SIGTERM)
        code = server.process.wait(PATIENCE_S)
        ended_s = time.monotonic() - asked
        samples = under_way.wait()
    return {
        "kind": "reload",
        "reloads": len(seconds),
        "seconds_per_reload": seconds,
        "requests": int((samples.status != REFUSED).sum()),
        "statuses": samples.statuses(),
        "lost": samples.lost,
        "errors": int(((samples.status > 0) & (samples.status != 200)).sum()),
        "wrong": _wrong(samples, task),
        "latency": samples.latency(),
        "worst_ms": float(samples.latency_ms[samples.status == 200].max(initial=0)),
        "sigterm_exit_code": code,
        "sigterm_s": ended_s,
    }


def soak(task: Task, plan: Plan) -> dict[str, Any]:
    """Return the row of a long open loop of all protocols, one to several texts a request, with reloads at intervals."""
    with (
        _replaceable(task) as live,
        warm(PEER, task, plan, folder=live, requests=mixed_requests(task.texts, name=live.name)) as (server, load),
    ):
        long = replace(load, seconds=plan.soak_s, rate=plan.soak_rate)
        with watched(server, every_s=max(0.05, plan.soak_s / 360)) as memory, running(long) as under_way:
            times = max(0, int(plan.soak_s / plan.soak_reload_s) - 1)  # none when the load has ended
            seconds = _reload(server, live, task, times=times, pause_s=plan.soak_reload_s)
            samples = under_way.wait()
        recovered = _answers_rightly(server, task)
    return {
        "kind": "soak",
        "seconds": plan.soak_s,
        "rate": plan.soak_rate,
        "reloads": len(seconds),
        "seconds_per_reload": seconds,
        "statuses": samples.statuses(),
        "errors": samples.failed,
        "latency": samples.latency(),
        "right_afterwards": recovered,
        "memory_growth": growth(memory),
        "memory_bytes": memory,
    }


def mixed_requests(texts: Sequence[str], *, name: str) -> tuple[bytes, ...]:
    """Return requests of every protocol: half single texts, half of 2 to 16, a few long ones among them."""
    rng, made = np.random.default_rng(0), []
    for number in range(2000):
        some = [texts[place] for place in rng.integers(0, len(texts), size=1 if number % 2 else rng.integers(2, 17))]
        if number % 50 == 0:
            some[0] = " ".join(texts[:40])
        path, body = (
            ("/predict", {"inputs": [[text] for text in some], "truncate": True}),
            ("/", {"inputs": some, "parameters": {"top_k": 2}}),
            (
                f"/v2/models/{name}/infer",
                {"inputs": [{"name": "text", "shape": [len(some)], "datatype": "BYTES", "data": some}]},
            ),
        )[number % 3]
        made.append(post(path, json.dumps(body).encode()))
    return tuple(made)


@contextmanager
def watched(server: RunningServer, *, every_s: float = 0.5) -> Iterator[list[int]]:
    """Yield a list that fills with the server's memory in bytes, a value each `every_s` seconds."""
    seen: list[int] = []

    def watch(stop: threading.Event) -> None:
        while not stop.wait(every_s):
            seen.append(server.memory_bytes())

    with meanwhile(watch):
        yield seen


def growth(memory: Sequence[int]) -> float:
    """Return how much the last sixth's median is above the second sixth's, as a share of it; the first sixth warms up."""
    if len(memory) < 6:
        raise PotstillError(f"{len(memory)} values of memory are too few to say whether it grows")
    _, early, *_, late = (np.median(sixth) for sixth in np.array_split(memory, 6))
    return float(late / early - 1)


def _answers_rightly(server: RunningServer, task: Task) -> bool:
    once = Load(server.port, requests_for(PEER, task.texts[:1]), connections=1, seconds=PATIENCE_S, most=1)
    return labels_of(PEER, run(once)) == [task.predicted[0]]


@contextmanager
def _replaceable(task: Task) -> Iterator[Path]:
    """Yield a link to the bundle that can be put to another one."""
    with TemporaryDirectory() as place:
        live = Path(place) / "live"
        live.symlink_to(task.bundle.resolve())
        yield live


def _reload(server: RunningServer, live: Path, task: Task, *, times: int, pause_s: float) -> list[float]:
    """Put another bundle in the served one's place and send SIGHUP, at intervals; return the seconds until each answers."""
    seconds: list[float] = []
    for bundle in islice(cycle((task.other, task.bundle)), times):
        time.sleep(pause_s)
        before, beside = server.ask("GET", "/info"), live.with_name("next")
        beside.symlink_to(bundle.resolve())
        beside.replace(live)
        asked = time.monotonic()
        server.send(signal.SIGHUP)
        while server.ask("GET", "/info") == before:
            if time.monotonic() - asked > PATIENCE_S:
                raise PotstillError(f"the server still serves the earlier bundle {PATIENCE_S:.0f} s after SIGHUP")
            time.sleep(0.05)
        seconds.append(time.monotonic() - asked)
    return seconds


def _wrong(samples: Samples, task: Task) -> int:
    """Return how many answers have another label than the bundle's own runtime gives; that of `other` is the same."""
    answers = zip(labels_of(PEER, samples), cycle(task.predicted), samples.status, strict=False)
    return sum(label != wanted for label, wanted, status in answers if status == 200)
