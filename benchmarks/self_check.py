"""The scenario `instrument`: does the instrument find what is there, and nothing else?

A bundle against itself, many times in short form: how often the interval of the ratio leaves 1 out. The same with one side
held back by 5 %: how often that is found. And what the harness adds to a call of 1 ms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates import Candidate, Task
from benchmarks.instrument import ratio_estimate
from benchmarks.sessions import SpeedSettings, measure_together
from benchmarks.speed import single_turn, warm_texts
from distill.errors import PotstillError
from distill.progress import Reporter, SilentReporter
from distill.storage import write_atomically

TRIALS = 100
SLOWDOWN = 0.05
CALL_MS = 1.0
SHORT = SpeedSettings(rounds=30, texts=240, settle_s=3.0, window_s=0.1)
ARMS = {"same": 0.0, "slowed": SLOWDOWN}


def run_self_check(candidate: Candidate, task: Task, *, trials: int, kept: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """Return the rows: one per arm with every trial's interval, and one of the call of 1 ms.

    Args:
        candidate: What is put against itself.
        task: Texts that it answers.
        trials: Trials of each arm; the two arms take turns.
        kept: A file of finished trials; they are not run again.
        reporter: Told of progress.
    """
    done: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    if kept.exists():
        done = json.loads(kept.read_text(encoding="utf-8"))
    with reporter.task("trials", len(ARMS) * trials) as advance:
        advance(sum(min(len(found), trials) for found in done.values()))
        for number in range(trials):
            for name, slowdown in ARMS.items():
                if number < len(done[name]):
                    continue
                done[name].append(trial(candidate, task, slowdown=slowdown, seed=number))
                write_atomically(kept, json.dumps(done))
                advance(1)
    rows = [
        {"name": name, "slowdown": ARMS[name], "bundle": candidate.name, "trials": found[:trials]}
        for name, found in done.items()
    ]
    return [*rows, {"name": "call", "call_ms": CALL_MS, **call_overhead(candidate, task)}]


def instrument_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how often a difference was reported where there is none, how often one of 5 % was found, and the overhead."""
    by_name = {row["name"]: row for row in rows}
    same, slowed = (by_name[name]["trials"] for name in ARMS)
    return {
        "trials": len(same),
        "false_alarms": sum(each["low"] > 1 or each["high"] < 1 for each in same),
        "slowdowns_found": sum(each["high"] < 1 for each in slowed),
        "half_width_median": float(np.median([(each["high"] - each["low"]) / 2 for each in same])),
        "call_overhead_share": by_name["call"]["p50_ms"] / CALL_MS - 1,
    }


def trial(candidate: Candidate, task: Task, *, slowdown: float, seed: int) -> dict[str, float]:
    """Return the ratio of a candidate to a second process of it, held back or not, with its interval."""
    first, second = replace(candidate, name="first"), replace(candidate, name="second", slowdown=slowdown)
    settings = SHORT.model_copy(update={"seed": seed})
    texts = task.test.texts[: settings.texts]
    measured = measure_together(
        [first, second],
        task,
        settings,
        threads=1,
        turn=single_turn(texts, rounds=settings.rounds, seed=seed),
        warm=warm_texts(texts),
        reporter=SilentReporter(),
    )
    if measured.failed:
        raise PotstillError(f"{candidate.name} failed: {next(iter(measured.failed.values()))}")
    return ratio_estimate(measured.turns["first"].ms, measured.turns["second"].ms, seed=seed).to_json()


def call_overhead(candidate: Candidate, task: Task) -> dict[str, Any]:
    """Return the median that the harness measures of a call that takes 1 ms by its own clock."""
    clockwork = Candidate("clockwork", "peer", "clockwork", candidate.bundle, options={"ms": CALL_MS})
    texts = task.test.texts[: SHORT.texts]
    turn = single_turn(texts, rounds=SHORT.rounds, seed=0)
    measured = measure_together([clockwork], task, SHORT, threads=1, turn=turn, warm=texts[:8], reporter=SilentReporter())
    samples = np.concatenate(measured.turns["clockwork"].ms)
    return {"p50_ms": float(np.median(samples)), "samples": len(samples)}
