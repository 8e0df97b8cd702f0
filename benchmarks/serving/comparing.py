"""Whole stack against whole stack: each server takes its turn in every round, fresh processes, the same texts.

A turn is a closed loop, for the rate, then an open loop at half of that rate, for the tail.
A peer first tries its candidate settings for a few seconds each; the fastest is the one that is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.quality import quality_part
from benchmarks.peers.servers import OURS, SERVERS
from benchmarks.peers.servers.protocol import ServerPeer, Setting
from benchmarks.serving.generator import Load
from benchmarks.serving.load import Samples, percentiles, post, run
from benchmarks.serving.plan import DatedPieces, Plan, Task
from benchmarks.serving.servers import RunningServer, started
from distill.data import Dataset
from distill.progress import Reporter
from export.measure.statistics import MIN_SAMPLES
from export.measure.turns import dropping
from export.measure.workers import PeerError

UNTIL_DONE_S = 600.0
"""The most that a load takes which ends when every text was asked once, or when its server is stopped."""


def compare(task: Task, plan: Plan, pieces: DatedPieces, *, reporter: Reporter) -> list[dict[str, Any]]:
    """Return a row per server, ours first; one that cannot take part says why.

    Args:
        task: Bundle, stock export and texts.
        plan: How much, and with which peers.
        pieces: What earlier runs finished.
        reporter: Told of progress.
    """
    chosen: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name in (OURS, *plan.peers):
        reporter.say(f"serving: settings of {name}")
        with dropping(name, skipped, reporter):
            chosen[name] = pieces.get(f"settings-{name}", partial(_choose, SERVERS[name], task, plan))
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    with reporter.task("turns", plan.rounds * len(chosen)) as advance:
        for number in range(plan.rounds):
            # There and back, so that a machine that grows slower does so for all.
            for name in list(chosen) if number % 2 == 0 else reversed(chosen):
                turn = partial(_turn, SERVERS[name], task, plan, chosen[name]["setting"], number)
                turns[name].append(pieces.get(f"turn-{number}-{name}", turn))
                advance(1)
    return [
        *(_row(SERVERS[name], chosen[name], turns[name], turns[OURS], task) for name in chosen),
        *({"kind": "server", "name": name, "skipped": reason} for name, reason in skipped.items()),
    ]


@contextmanager
def warm(
    peer: ServerPeer,
    task: Task,
    plan: Plan,
    *,
    setting: Setting | None = None,
    folder: Path | None = None,
    requests: tuple[bytes, ...] = (),
) -> Iterator[tuple[RunningServer, Load]]:
    """Start a server, warm it up by a closed loop, and yield it with that load, of which others are made.

    Args:
        peer: Which.
        task: What it serves, and the texts that it is asked.
        plan: How many connections, and how long the warm-up is.
        setting: One of its candidates.
        folder: What it serves instead.
        requests: What it is asked instead.
    """
    with started(peer, folder or (task.stock if peer.packages else task.bundle), setting or {}) as server:
        load = Load(server.port, requests or requests_for(peer, task.texts), plan.connections, plan.warmup_s)
        run(load)
        yield server, load


def weighed(server: RunningServer, load: Load) -> tuple[Samples, float]:
    """Run a load; return its samples, and the microseconds of processor time that the server took per answer."""
    before_s = server.cpu_s()
    samples = run(load)
    return samples, (server.cpu_s() - before_s) / max(1, samples.count(200)) * 1e6


def requests_for(peer: ServerPeer, texts: Sequence[str], *lines: str) -> tuple[bytes, ...]:
    """Return a whole request a text; `lines` are further ones of its head."""
    return tuple(post(peer.path, peer.request_body(text), *lines) for text in texts)


def labels_of(peer: ServerPeer, samples: Samples) -> list[str | None]:
    """Return the label of each answer; None where there is none."""
    found = [_label(peer, body) for body in samples.bodies]
    return [found[number] if status == 200 else None for number, status in zip(samples.answer, samples.status, strict=True)]


def _label(peer: ServerPeer, body: bytes) -> str | None:
    try:
        return peer.label(body)
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def quality_of(given: Sequence[str | None], test: Dataset) -> dict[str, Any]:
    """Return the quality part of a row from the labels that a server gave; no label counts as a wrong one.

    Raises:
        PeerError: It gave a label that the texts do not have.
    """
    strange = {label for label in given if label is not None} - set(test.labels)
    if strange:
        raise PeerError(f"a server gave labels that the texts do not have: {', '.join(sorted(strange))}")
    wrong = (test.label_ids + 1) % len(test.labels)
    ids = [other if label is None else test.labels.index(label) for label, other in zip(given, wrong, strict=True)]
    return quality_part(np.eye(len(test.labels), dtype=np.float32)[ids], test, gives="labels", reference=None)


def _choose(peer: ServerPeer, task: Task, plan: Plan) -> dict[str, Any]:
    """Try each setting; return the fastest, and what all reached."""
    tried = [{**setting, **_tried(peer, task, plan, setting)} for setting in peer.settings]
    best = max(tried, key=lambda each: each.get("requests_per_second", -1.0))
    if "failed" in best:
        raise PeerError(best["failed"])
    return {"setting": dict(peer.settings[tried.index(best)]), "tried": tried}


def _tried(peer: ServerPeer, task: Task, plan: Plan, setting: Setting) -> dict[str, Any]:
    try:
        with warm(peer, task, plan, setting=setting) as (_, load):
            return {"requests_per_second": run(replace(load, seconds=plan.turn_s)).requests_per_second}
    except PeerError as exc:
        return {"failed": str(exc)}


def _turn(peer: ServerPeer, task: Task, plan: Plan, setting: Setting, number: int) -> dict[str, Any]:
    with warm(peer, task, plan, setting=setting) as (server, load):
        every = replace(load, seconds=UNTIL_DONE_S, most=len(load.requests))
        given = {"labels": labels_of(peer, run(every))} if number == 0 else {}
        samples, cpu_us = weighed(server, replace(load, seconds=plan.turn_s))
        memory, half = server.memory_bytes(), max(1.0, samples.requests_per_second / 2)
        opened = run(replace(load, connections=4 * plan.connections, seconds=plan.turn_s, rate=half, seed=number))
    return {
        **given,
        "open_latency_ms": opened.latency_ms.round(3).tolist(),
        "requests_per_second": samples.requests_per_second,
        "statuses": samples.statuses(),
        "latency_ms": samples.latency_ms[samples.status == 200].round(3).tolist(),
        "server_cpu_us_per_request": cpu_us,
        "memory_bytes": memory,
        "generator": samples.generator(),
    }


def _row(
    peer: ServerPeer, chosen: dict[str, Any], turns: list[dict[str, Any]], ours: list[dict[str, Any]], task: Task
) -> dict[str, Any]:
    rates = [turn["requests_per_second"] for turn in turns]
    ratios = [our["requests_per_second"] / rate if rate else float("inf") for our, rate in zip(ours, rates, strict=True)]
    latencies, opened = ([np.array(turn[name]) for turn in turns] for name in ("latency_ms", "open_latency_ms"))
    given = turns[0]["labels"]
    return {
        "kind": "server",
        "name": peer.name,
        "requests_per_second": float(np.median(rates)),
        "requests_per_second_rounds": rates,
        "requests_ratio": float(np.median(ratios)),
        "requests_ratio_range": [min(ratios), max(ratios)],
        "latency": percentiles(*latencies),
        "latency_quantiles_ms": quantiles(np.concatenate(latencies)),
        "open_latency": percentiles(*opened),
        "errors": sum(count for turn in turns for status, count in turn["statuses"].items() if status != "200"),
        **quality_of(given, task.test),
        "labels_other_than_predicted": sum(label != own for label, own in zip(given, task.predicted, strict=True)),
        "server_cpu_us_per_request": float(np.median([turn["server_cpu_us_per_request"] for turn in turns])),
        "memory_bytes": max(turn["memory_bytes"] for turn in turns),
        "generator": medians([turn["generator"] for turn in turns]),
        "settings": chosen["setting"],
        "tried": chosen["tried"],
        "source": peer.source,
    }


def medians(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of every entry."""
    return {name: float(np.median([values[name] for values in each])) for name in each[0]}


def quantiles(values_ms: np.ndarray) -> list[float]:
    """Return the percentiles from 0 to 100, in milliseconds; none if there are too few samples for the 99th."""
    return np.percentile(values_ms, range(101)).round(3).tolist() if len(values_ms) >= MIN_SAMPLES[99] else []
