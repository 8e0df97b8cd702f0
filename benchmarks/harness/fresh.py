"""The scenarios `cold-start` and `memory`: fresh processes, in turns, with the quality of what they answer.

cold-start: seconds from starting a process to its first answer, imports and loading inside; the files are in the page cache.
memory: bytes that a process and its children hold when ready, after every test text alone and at once, and at most.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from benchmarks.harness.candidates import Candidate, Task
from benchmarks.harness.rows import failed_row, identity_part, quality_part, slug_of
from benchmarks.harness.sessions import STARTS, SpeedSettings, dropping, in_turn, make_ready, opened
from distill.errors import PotstillError
from distill.machine import available_cpus
from distill.progress import Reporter
from export.measure.circumstances import Watch
from export.measure.protocol import Logits
from export.measure.statistics import marks_of, median_estimate, spread

FreshScenario = Literal["cold-start", "memory"]
ROUNDS = {"cold-start": 8, "memory": 1}
MANY = 1_000_000_000


class Fresh:
    """What a candidate's fresh processes did.

    Attributes:
        about: What they said of themselves.
        seconds: From start to first answer, by round.
        logits: Answers to all texts, from the first round.
        memory: By moment, in bytes; None where the system does not say.
    """

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.seconds: list[float] = []
        self.logits: Logits = np.empty((0, 0))
        self.memory: dict[str, int | None] = {}


def run_fresh(
    scenario: FreshScenario, candidates: Sequence[Candidate], task: Task, settings: SpeedSettings, *, reporter: Reporter
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure and return the rows, one per candidate in their order, and the session.

    Args:
        scenario: Which.
        candidates: The first is what retention and agreement refer to.
        task: What they are measured on.
        settings: Rounds, threads, limits.
        reporter: Told of progress.

    Raises:
        PotstillError: The first candidate failed.
    """
    texts = list(task.test.single_texts()[: settings.texts or len(task.test)])
    rounds = ROUNDS["memory"] if scenario == "memory" else settings.rounds or ROUNDS["cold-start"]
    failed = make_ready(candidates, task, reporter=reporter)
    watch = Watch()
    found = {candidate.name: Fresh() for candidate in candidates}
    with reporter.task(scenario, rounds * len(candidates)) as advance:
        for number in range(rounds):
            for name in in_turn([each.name for each in candidates], number, settings, what=STARTS):
                if name not in failed:
                    with dropping(name, failed, reporter):
                        candidate = next(each for each in candidates if each.name == name)
                        _start(scenario, candidate, task, settings, texts, found[name], whole=number == 0)
                advance(1)
    session = watch.session()
    first = candidates[0].name
    if first in failed:
        raise PotstillError(f"{first} is what the others are compared with, and it failed: {failed[first]}")
    rows = []
    for candidate in candidates:
        if candidate.name in failed:
            rows.append(failed_row(candidate, failed[candidate.name]))
            continue
        fresh = found[candidate.name]
        try:
            quality = quality_part(
                fresh.logits.astype(np.float32),
                task.test,
                texts=len(texts),
                gives=fresh.about["gives"],
                reference=found[first].logits.astype(np.float32),
                seed=settings.seed,
            )
        except (PotstillError, ValueError) as exc:
            rows.append(failed_row(candidate, str(exc)))
            continue
        part = fresh.memory if scenario == "memory" else _seconds_part(fresh, session.others_processors, settings.seed)
        rows.append({**identity_part(candidate, fresh.about, prepared_s=None, session=0), **quality, "marks": [], **part})
    return rows, [session.to_json()]


def fresh_figures(scenario: str, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of a scenario from its rows; a row that failed has none."""
    figures: dict[str, float] = {}
    for row in rows:
        if "failed" in row:
            continue
        value = row["cold_start_s"]["value"] if scenario == "cold-start" else row["peak_rss_bytes"]
        if value is not None:
            name = "cold_start_s" if scenario == "cold-start" else "peak_rss_bytes"
            figures[f"{slug_of(row['name'])}_{name}"] = value
    return figures


def _start(
    scenario: FreshScenario,
    candidate: Candidate,
    task: Task,
    settings: SpeedSettings,
    texts: list[str],
    fresh: Fresh,
    *,
    whole: bool,
) -> None:
    threads = settings.threads or (1 if scenario == "cold-start" else available_cpus())
    started = time.perf_counter()
    with opened(candidate, task, threads=threads, timeout_s=settings.timeout_s) as worker:
        if scenario == "cold-start":
            worker.single(texts[:1], warmup=0)
            fresh.seconds.append(time.perf_counter() - started)
            if whole:
                fresh.logits = worker.single(texts, warmup=0).logits
        else:
            fresh.memory["ready_rss_bytes"] = worker.memory().rss_bytes
            fresh.logits = worker.single(texts, warmup=0).logits
            fresh.memory["alone_rss_bytes"] = worker.memory().rss_bytes
            worker.many(texts, warmup=0)
            used = worker.memory()
            fresh.memory |= {"used_rss_bytes": used.rss_bytes, "peak_rss_bytes": used.peak_rss_bytes}
        fresh.about = worker.about


def _seconds_part(fresh: Fresh, others_processors: float | None, seed: int) -> dict[str, Any]:
    # The first start of all reads files that later ones find in the page cache.
    rounds = [[each] for each in fresh.seconds]
    found = spread(rounds)
    return {
        "marks": marks_of(spread=found, steady=True, others_processors=others_processors, samples=MANY),
        "spread": found,
        "cold_start_s": median_estimate(rounds, seed=seed).to_json(),
        "cold_start_s_rounds": [round(each, 4) for each in fresh.seconds],
    }
