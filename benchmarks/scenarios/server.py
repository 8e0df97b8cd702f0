"""The scenario `server`: the highest rate of single texts that a server takes while its 99th percentile keeps a bound.

Open loop, Poisson: a slow moment delays what comes after it, and latency counts from when a request was due. The rate is
found by bisection; each probe has the answers that a 99th percentile needs. Each search is done twice, the rows in the
opposite order, and the lower rate counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field

from benchmarks.harness.candidates import Candidate, RowSettings, candidates_of, task_of
from benchmarks.harness.deciding import LOAD, SPEED
from benchmarks.harness.scenario import QUALITY, Context, Outcome, Scenario
from benchmarks.harness.speed import failed_row, figures_named, parts_of
from benchmarks.peers.servers import OURS, SERVERS
from benchmarks.report.tables import speed_table
from benchmarks.serving.comparing import UNTIL_DONE_S, labels_of, quality_of, requests_for
from benchmarks.serving.generator import Load
from benchmarks.serving.load import run
from benchmarks.serving.servers import started
from distill.data import Dataset
from distill.progress import Reporter
from distill.settings import DataSettings
from export.measure.circumstances import Watch
from export.measure.statistics import MIN_SAMPLES
from export.measure.turns import dropping
from export.measure.workers import PeerError

SEARCHES = 2


class RateSettings(RowSettings, DataSettings):
    """How the highest rate is looked for."""

    bound_ms: float = Field(
        25.0, gt=0, description="99 of 100 answers must arrive within this many ms of when their request was due"
    )
    probe_s: float = Field(4.0, gt=0, description="minimum seconds at each tried rate; longer until there are enough answers")
    steps: int = Field(6, ge=1, description="number of times that the range of possible rates is halved")
    connections: int = Field(64, ge=1, description="number of open connections")


def highest_rate(keeps: Callable[[float], bool], *, least: float, most: float, steps: int) -> float | None:
    """Return the highest rate that keeps the bound; None where not even the least does.

    Args:
        keeps: Tells of a rate whether a server keeps the bound at it.
        least: The lowest rate that is tried.
        most: The highest.
        steps: Halvings of what is between them, on the scale of logarithms.
    """
    rates = np.geomspace(least, most, 2**steps).tolist()
    kept = bisect_left(rates, True, key=lambda rate: not keeps(rate))
    return rates[kept - 1] if kept else None


def run_rate_search(
    candidates: Sequence[Candidate], test: Dataset, settings: RateSettings, *, reporter: Reporter
) -> list[dict[str, Any]]:
    """Measure and return the rows, one per candidate in their order.

    Args:
        candidates: Bundles, served by `potstill serve`, and addresses on this machine.
        test: Labelled texts.
        settings: Bound, probes, connections.
        reporter: Told of progress.
    """
    watch = Watch()
    found: dict[str, list[dict[str, Any]]] = {candidate.name: [] for candidate in candidates}
    failed: dict[str, str] = {}
    turns = [(number, each) for number in range(SEARCHES) for each in candidates[:: -1 if number % 2 else 1]]
    with reporter.task("server", len(turns)) as advance:
        for number, candidate in turns:
            if candidate.name not in failed:
                with dropping(candidate.name, failed, reporter):
                    found[candidate.name].append(_search(candidate, test, settings, seed=number))
            advance(1)
    session = watch.session().to_json()
    return [
        failed_row(each, failed[each.name]) if each.name in failed else {**_row(each, found[each.name]), "session": session}
        for each in candidates
    ]


def run_server(settings: RateSettings, context: Context) -> Outcome:
    """Search for every bundle with a graph and every address."""
    if not settings.bundles:
        settings = settings.model_copy(update={"bundles": (f"{context.trained('2_layers')}:int8",)})
    task = task_of(settings, settings, context, texts=200 if context.quick else None)
    rows = run_rate_search(candidates_of(settings, context), task.test, settings, reporter=context.reporter)
    return Outcome(rows, parts_of(task))


def _search(candidate: Candidate, test: Dataset, settings: RateSettings, *, seed: int) -> dict[str, Any]:
    with _reachable(candidate) as (port, path):
        peer = replace(SERVERS[OURS], path=path)
        load = Load(port, requests_for(peer, test.single_texts()), settings.connections, UNTIL_DONE_S, seed=seed)
        whole = run(replace(load, most=len(test)))  # a closed loop over every text once: the answers, and the limit
        if not whole.count(200):
            raise PeerError(f"it answered none of {len(test)} requests as it should: {whole.statuses()}")

        def keeps(rate: float) -> bool:
            samples = run(replace(load, rate=rate, seconds=max(settings.probe_s, 1.1 * MIN_SAMPLES[99] / rate)))
            p99_ms = samples.latency()["p99_ms"]
            is_kept = not samples.failed and p99_ms is not None and p99_ms <= settings.bound_ms
            probes.append({"rate": round(rate, 1), "p99_ms": p99_ms, "lost": samples.failed, "keeps": is_kept})
            return is_kept

        limit, probes = whole.requests_per_second, list[dict[str, Any]]()
        highest = highest_rate(keeps, least=limit / 16, most=limit, steps=settings.steps)
    given = labels_of(peer, whole)
    return {
        "highest": highest,
        "probes": probes,
        "quality": {**quality_of(given, test), "unanswered": given.count(None)},
        "closed_loop": limit,
    }


@contextmanager
def _reachable(candidate: Candidate) -> Iterator[tuple[int, str]]:
    """Yield port and path of a server: ours started on a bundle, or one that stands already."""
    if candidate.kind == "url":
        parts = urlsplit(candidate.options["url"])
        if parts.hostname not in ("127.0.0.1", "localhost") or parts.port is None:
            raise PeerError(f"{candidate.options['url']}: the load generator asks servers on 127.0.0.1, with a port")
        yield parts.port, parts.path or "/"
    elif candidate.kind == "bundle" and candidate.options.get("form") != "pytorch":
        with started(SERVERS[OURS], candidate.bundle, {}, arguments=("--precision", str(candidate.precision))) as server:
            yield server.port, SERVERS[OURS].path
    else:
        raise PeerError(f"{candidate.name} is no server; give --url, or a bundle with a graph")


def _row(candidate: Candidate, searches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates = [search["highest"] for search in searches]
    return {
        "name": candidate.name,
        "kind": candidate.kind,
        "precision": candidate.precision,
        "settings": dict(candidate.options) if candidate.kind == "url" else {"server": "potstill serve"},
        "source": "benchmarks/serving",
        "size_bytes": None,
        "identity": dict(candidate.identity),
        "marks": ["late: at no rate did 99 of 100 answers keep the bound in every search"] if None in rates else [],
        **searches[0]["quality"],
        "requests_per_second": None if None in rates else min(rates),
        "requests_per_second_searches": rates,
        "closed_loop_requests_per_second": [search["closed_loop"] for search in searches],
        "probes": [search["probes"] for search in searches],
    }


SCENARIO = Scenario(
    name="server",
    summary="Find the highest request rate of a server at which 99 of 100 answers arrive within --bound-ms.",
    settings=RateSettings,
    run=run_server,
    figures=lambda result: figures_named("requests_per_second", result),
    table=speed_table,
    decided_by=("benchmarks/scenarios/server.py", "serve/http", "serve/answering", *LOAD, *SPEED),
    minutes=10,
    quick={"steps": 1, "probe_s": 0.5},
    needs=(QUALITY,),
)
