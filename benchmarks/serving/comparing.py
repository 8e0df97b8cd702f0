"""Whole stack against whole stack: each server takes its turn in every round, fresh processes, the same texts.

A turn is a closed loop, for the rate, then an open loop at half of that rate, for the tail.
A peer first tries its candidate settings for a few seconds each; the fastest is the one that is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.servers import OURS, SERVERS
from benchmarks.peers.servers.protocol import ServerPeer, Setting
from benchmarks.serving.generator import Load
from benchmarks.serving.load import Samples, percentiles, post, run
from benchmarks.serving.plan import DatedPieces, Plan, Task
from benchmarks.serving.servers import started
from distill.errors import PotstillError
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from distill.progress import Reporter
from export.measure.statistics import MIN_SAMPLES
from export.measure.workers import PeerError


def compare(task: Task, plan: Plan, pieces: DatedPieces, *, peers: Sequence[str], reporter: Reporter) -> list[dict[str, Any]]:
    """Return a row per server, ours first; one that cannot take part says why.

    Args:
        task: Bundle, stock export and texts.
        plan: How much.
        pieces: What earlier runs finished.
        peers: Names of peers.
        reporter: Told of progress.
    """
    chosen: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name in (OURS, *peers):
        reporter.say(f"serving: settings of {name}")
        try:
            chosen[name] = pieces.get(f"settings-{name}", partial(_choose, SERVERS[name], task, plan))
        except PeerError as exc:
            if name == OURS:
                raise
            skipped[name] = str(exc)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    with reporter.task("turns", plan.rounds * len(chosen)) as advance:
        for number in range(plan.rounds):
            # There and back, so that a machine that grows slower does so for all.
            for name in list(chosen) if number % 2 == 0 else reversed(chosen):
                measure = partial(_turn, SERVERS[name], task, plan, chosen[name]["setting"], number)
                turns[name].append(pieces.get(f"turn-{number}-{name}", measure))
                advance(1)
    rows = [_row(SERVERS[name], chosen[name], turns[name], turns[OURS], task) for name in chosen]
    return rows + [{"kind": "server", "name": name, "skipped": reason} for name, reason in skipped.items()]


def requests_for(peer: ServerPeer, texts: Sequence[str]) -> tuple[bytes, ...]:
    """Return a whole request a text."""
    return tuple(post(peer.path, peer.request_body(text)) for text in texts)


def labels_of(peer: ServerPeer, samples: Samples) -> list[str | None]:
    """Return the label of each answer; None where there is none."""
    found = [None if not body else _label(peer, body) for body in samples.bodies]
    return [found[number] if status == 200 else None for number, status in zip(samples.answer, samples.status, strict=True)]


def logits_of(given: Sequence[str | None], labels: Sequence[str], truth: NDArray[np.int64]) -> Logits:
    """Return 1 for the label that was given and 0 for the others; no label, or an unknown one, counts as a wrong one."""
    columns = {label: number for number, label in enumerate(labels)}
    wrong = (truth + 1) % len(labels)
    chosen = [columns.get(label or "", int(other)) for label, other in zip(given, wrong, strict=True)]
    return np.eye(len(labels), dtype=np.float32)[chosen]


def _label(peer: ServerPeer, body: bytes) -> str | None:
    try:
        return peer.label(body)
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _choose(peer: ServerPeer, task: Task, plan: Plan) -> dict[str, Any]:
    """Try each setting; return the fastest, and what all reached."""
    if len(peer.settings) == 1:
        return {"setting": dict(peer.settings[0]), "tried": []}
    tried: list[dict[str, Any]] = []
    for setting in peer.settings[: plan.settings]:
        try:
            with started(peer, task.folder_of(peer), setting) as server:
                requests = requests_for(peer, task.texts_for(peer))
                run(Load(server.port, requests, plan.connections, plan.warmup_s))
                samples = run(Load(server.port, requests, plan.connections, plan.try_s))
        except PeerError as exc:
            tried.append({**setting, "failed": str(exc)})
        else:
            tried.append({**setting, "requests_per_second": samples.requests_per_second})
    working = [each for each in tried if "failed" not in each]
    if not working:
        raise PeerError(tried[0]["failed"])
    best = max(working, key=lambda each: each["requests_per_second"])
    return {"setting": {name: value for name, value in best.items() if name != "requests_per_second"}, "tried": tried}


def _turn(peer: ServerPeer, task: Task, plan: Plan, setting: Setting, number: int) -> dict[str, Any]:
    with started(peer, task.folder_of(peer), setting) as server:
        requests = requests_for(peer, task.texts_for(peer))
        found: dict[str, Any] = {}
        if number == 0:  # every text once: quality, and the warm-up
            samples = run(Load(server.port, requests, plan.connections, 600, most=len(requests)))
            found["labels"] = labels_of(peer, samples)
        run(Load(server.port, requests, plan.connections, plan.warmup_s))
        before_s = server.cpu_s()
        samples = run(Load(server.port, requests, plan.connections, plan.turn_s))
        spent_s, memory = server.cpu_s() - before_s, server.memory_bytes()
        half = samples.requests_per_second / 2
        opened = run(Load(server.port, requests, 4 * plan.connections, plan.turn_s, rate=max(1.0, half), seed=number))
        return {
            **found,
            "open_latency_ms": [round(float(value), 3) for value in opened.latency_ms],
            "requests_per_second": samples.requests_per_second,
            "statuses": samples.statuses(),
            "latency_ms": [round(float(value), 3) for value in samples.latency_ms[samples.status == 200]],
            "server_cpu_us_per_request": spent_s / max(1, samples.count(200)) * 1e6,
            "memory_bytes": memory,
            "generator": samples.generator(),
        }


def _row(
    peer: ServerPeer, chosen: dict[str, Any], turns: list[dict[str, Any]], ours: list[dict[str, Any]], task: Task
) -> dict[str, Any]:
    rates = [turn["requests_per_second"] for turn in turns]
    ratios = [our["requests_per_second"] / rate if rate else float("inf") for our, rate in zip(ours, rates, strict=True)]
    latencies = np.concatenate([np.array(turn["latency_ms"]) for turn in turns])
    return {
        "kind": "server",
        "name": peer.name,
        "requests_per_second": float(np.median(rates)),
        "requests_per_second_rounds": rates,
        "requests_ratio": float(np.median(ratios)),
        "requests_ratio_range": [min(ratios), max(ratios)],
        "latency": percentiles(*(np.array(turn["latency_ms"]) for turn in turns)),
        "latency_quantiles_ms": quantiles(latencies),
        "open_latency": percentiles(*(np.array(turn["open_latency_ms"]) for turn in turns)),
        "errors": sum(count for turn in turns for status, count in turn["statuses"].items() if status != "200"),
        **_quality(turns[0]["labels"], task),
        "server_cpu_us_per_request": float(np.median([turn["server_cpu_us_per_request"] for turn in turns])),
        "memory_bytes": max(turn["memory_bytes"] for turn in turns),
        "generator": {name: float(np.median([turn["generator"][name] for turn in turns])) for name in turns[0]["generator"]},
        "settings": chosen["setting"],
        "tried": chosen["tried"],
        "source": peer.source,
    }


def _quality(given: Sequence[str | None], task: Task) -> dict[str, Any]:
    """Judge the labels that a server gave; an answer without one counts as wrong."""
    if any(label is not None and label not in task.labels for label in given):
        raise PotstillError(f"a server gave labels that the bundle does not have: {sorted(set(map(str, given)))}")
    decided = logits_of(given, task.labels, task.label_ids)
    found = asdict(evaluate(labels=task.label_ids, logits=decided, label_names=task.labels))
    return {name: found[name] for name in ("macro_f1", "macro_f1_interval", "num_texts")} | {
        "labels_other_than_predicted": sum(label != own for label, own in zip(given, task.predicted, strict=True))
    }


def quantiles(values_ms: np.ndarray) -> list[float]:
    """Return the percentiles from 0 to 100, in milliseconds; none if there are too few samples for the 99th."""
    return (
        [round(float(value), 3) for value in np.percentile(values_ms, range(101))] if len(values_ms) >= MIN_SAMPLES[99] else []
    )
