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

from benchmarks.harness.candidates import Candidate, Task
from benchmarks.harness.sessions import PROCESSES, SpeedSettings, Turns, measure_together
from benchmarks.harness.speed import single_turn, warm_texts
from distill.errors import PotstillError
from distill.progress import Reporter, SilentReporter
from distill.storage import write_atomically
from export.measure.statistics import ratio_estimate, ratios_of

TRIALS = 100
SLOWDOWN = 0.05
CALL_MS = 1.0
SHORT = SpeedSettings(rounds=24, processes=PROCESSES, texts=240, settle_s=3.0, window_s=0.05)
REFERENCE = "reference"
ARMS = {"same": 0.0, "slowed": SLOWDOWN}


def run_self_check(candidate: Candidate, task: Task, *, trials: int, kept: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """Return the rows: one per arm with every trial's interval, and one of the call of 1 ms.

    Args:
        candidate: What is put against itself.
        task: Texts that it answers.
        trials: Comparisons; in each, both arms take turns with what they are compared with.
        kept: A file of finished trials; they are not run again.
        reporter: Told of progress.
    """
    done: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    with reporter.task("trials", trials) as advance:
        advance(min(len(done), trials))
        for number in range(len(done), trials):
            done.append(trial(candidate, task, seed=number))
            write_atomically(kept, json.dumps(done))
            advance(1)
    rows = [
        {"name": name, "slowdown": slowdown, "bundle": candidate.name, "trials": [found[name] for found in done[:trials]]}
        for name, slowdown in ARMS.items()
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


def trial(candidate: Candidate, task: Task, *, seed: int, settings: SpeedSettings = SHORT) -> dict[str, dict[str, Any]]:
    """Return by arm the ratio of a candidate to itself, with its interval and the ratio of each pair of processes."""
    settings = settings.model_copy(update={"seed": seed})
    texts = task.test.single_texts()[: settings.texts]
    arms = [replace(candidate, name=name, slowdown=slowdown) for name, slowdown in ARMS.items()]
    measured = measure_together(
        [replace(candidate, name=REFERENCE), *arms],
        task,
        settings,
        threads=1,
        turn=single_turn(texts, rounds=settings.rounds, seed=seed),
        warm=warm_texts(texts),
        reporter=SilentReporter(),
    )
    if measured.failed:
        raise PotstillError(f"{candidate.name} failed: {next(iter(measured.failed.values()))}")
    reference = measured.turns[REFERENCE]
    return {name: _compared(reference, measured.turns[name], seed) for name in ARMS}


def _compared(reference: Turns, other: Turns, seed: int) -> dict[str, Any]:
    estimate = ratio_estimate(reference.ms, other.ms, process_of=other.process_of, seed=seed)
    return {**estimate.to_json(), "by_process": ratios_of(reference.ms, other.ms, process_of=other.process_of).tolist()}


def call_overhead(candidate: Candidate, task: Task) -> dict[str, Any]:
    """Return the median that the harness measures of a call that takes 1 ms by its own clock."""
    clockwork = Candidate("clockwork", "peer", "clockwork", candidate.bundle, options={"ms": CALL_MS})
    texts = task.test.single_texts()[: SHORT.texts]
    turn = single_turn(texts, rounds=SHORT.rounds, seed=0)
    measured = measure_together([clockwork], task, SHORT, threads=1, turn=turn, warm=texts[:8], reporter=SilentReporter())
    samples = np.concatenate(measured.turns["clockwork"].ms)
    return {"p50_ms": float(np.median(samples)), "samples": len(samples)}
