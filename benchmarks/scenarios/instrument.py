"""The scenario `instrument`: does the instrument find what is there, and nothing else?

A bundle against itself, many times in short form: how often the interval of the ratio leaves 1 out. The same with one side
held back: how often that is found. By the turns of `single-stream` and `offline`, and with whole servers under load. Beside
that, what the harness adds to a call of 1 ms, and how often the intervals over seeds hold the truth, by simulation.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from pydantic import Field

from benchmarks.harness.candidates import Candidate, RowSettings, Task, bundle_candidates, place_and_form, task_of
from benchmarks.harness.interval_simulation import Mix, simulated_coverage
from benchmarks.harness.pieces import Pieces
from benchmarks.harness.scenario import QUALITY, Context, Outcome, Result, Scenario, markdown_table
from benchmarks.harness.speed import SpeedSettings, timed
from benchmarks.peers.servers import SERVERS
from benchmarks.serving.comparing import requests_for
from benchmarks.serving.generator import Load
from benchmarks.serving.load import run as run_load
from benchmarks.serving.servers import RunningServer, meanwhile, started
from distill.progress import SilentReporter
from distill.settings import DataSettings, Settings
from export.measure.protocol import Job
from export.measure.statistics import over_processes, ratios_of
from export.measure.turns import Contender, Kind, slowed

CALL_MS: Final = 1.0
REFERENCE, SAME, SLOWED, CALL = "reference", "same", "slowed", "call"
SLOWDOWN: Final = {"single-stream": 0.05, "offline": 0.05, "serving": 0.15}
KINDS: Final[dict[str, Kind]] = {"single-stream": "single", "offline": "many"}
SHORT: Final = {
    "single-stream": SpeedSettings(rounds=24, texts=240, settle_s=3.0, window_s=0.05),
    "offline": SpeedSettings(rounds=16, texts=480, settle_s=3.0, window_s=0.05),
}
SEEDS: Final = (2, 3, 5)
ROUND_S: Final = 0.02
"""One of stopping a server for a share of it and letting it go on for the rest."""

Trial = dict[str, dict[str, Any]]
"""By arm, the ratio with its interval, and by process."""


class InstrumentSettings(Settings):
    """How often it is tried."""

    bundle: str | None = Field(
        None, description="bundle with a graph, PATH:fp32|int8; default: the 2-layer one of the scenario quality"
    )
    trials: int = Field(100, ge=1, description="short comparisons, of each kind, that time one text at a time")
    trials_offline: int = Field(30, ge=0, description="comparisons, of each kind, that time many texts at once")
    trials_serving: int = Field(30, ge=0, description="comparisons, of each kind, of servers")
    simulated: int = Field(1000, ge=0, description="simulated intervals for each number of seeds and each mix of variances")
    texts: int = Field(480, ge=1, description="number of test texts")
    turn_s: float = Field(1.5, gt=0, description="seconds that a server is loaded in each round")


def run(settings: InstrumentSettings, context: Context) -> Outcome:
    """Make the trials that are not finished, and the simulation."""
    given = settings.bundle or f"{context.trained('2_layers')}:int8"
    (candidate,) = bundle_candidates((given,))
    rows = RowSettings(teacher=Path(place_and_form(given)[0]))
    task = task_of(rows, DataSettings(), context, texts=settings.texts)
    counts = {"single-stream": settings.trials, "offline": settings.trials_offline, "serving": settings.trials_serving}
    found = []
    for name, count in counts.items():
        kept = f"{name}-{candidate.digest(context.commit)[:16]}"
        trial = _served_trial if name == "serving" else _timed_trial
        trials = _trials(count, kept, partial(trial, name, candidate, task, settings), context)
        found += [
            {
                "scenario": name,
                "name": arm,
                "slowdown": share,
                "bundle": candidate.name,
                "trials": [each[arm] for each in trials],
            }
            for arm, share in ((SAME, 0.0), (SLOWED, SLOWDOWN[name]))
        ]
    found.append({"name": CALL, "call_ms": CALL_MS, **call_overhead(task)})
    for seeds in SEEDS if settings.simulated else ():
        for mix in get_args(Mix):
            context.reporter.say(f"instrument: simulated intervals, {seeds} seeds, {mix}")
            found.append({"name": "coverage", **asdict(simulated_coverage(seeds, mix, trials=settings.simulated))})
    return Outcome(found)


def _trials(count: int, name: str, trial: Callable[[int], Trial], context: Context) -> list[Trial]:
    """Return so many trials, those kept under a name and the rest made now."""
    pieces = Pieces(context.folder)
    done: list[Trial] = pieces.find(name) or []
    with context.reporter.task(f"trials, {name.rpartition('-')[0]}", count) as advance:
        advance(min(len(done), count))
        for number in range(len(done), count):
            done = pieces.put(name, [*done, trial(number)])
            advance(1)
    return done[:count]


def _timed_trial(name: str, candidate: Candidate, task: Task, settings: InstrumentSettings, seed: int) -> Trial:
    short = SHORT[name].model_copy(update={"seed": seed, "texts": min(settings.texts, SHORT[name].texts)})
    return trial_of(KINDS[name], candidate, task, short, slowdown=SLOWDOWN[name])


def trial_of(kind: Kind, candidate: Candidate, task: Task, settings: SpeedSettings, *, slowdown: float) -> Trial:
    """Return by arm the ratio of a candidate to itself, with its interval and the ratio of each pair of processes."""
    texts = task.test.single_texts()[: settings.texts]
    held = {REFERENCE: 0.0, SAME: 0.0, SLOWED: slowdown}
    contenders = [slowed(task.contender(candidate, threads=1), share, name=name) for name, share in held.items()]
    turns = timed(kind, contenders, texts, settings, _QUIET).required()
    ratios = {name: ratios_of(turns[REFERENCE].ms, turns[name].ms, turns[name].process_of) for name in (SAME, SLOWED)}
    return {name: _estimated(found) for name, found in ratios.items()}


def _estimated(by_process: Sequence[float] | np.ndarray) -> dict[str, Any]:
    return {**asdict(over_processes(by_process)), "by_process": [float(each) for each in by_process]}


def _served_trial(name: str, candidate: Candidate, task: Task, settings: InstrumentSettings, seed: int) -> Trial:
    """Load three servers of one bundle in turns, each a fresh process in every round, one of them held back."""
    peer, rates = SERVERS["potstill"], {REFERENCE: [], SAME: [], SLOWED: []}  # type: ignore[var-annotated]
    requests = requests_for(peer, task.test.single_texts())
    for number in range(SHORT["offline"].processes):
        order = list(np.random.default_rng([seed, number // 2]).permutation(list(rates)))
        for arm in order if number % 2 == 0 else order[::-1]:
            with started(peer, candidate.bundle, peer.settings[0]) as server:
                run_load(Load(server.port, requests, 16, settings.turn_s / 3))
                with held_back(server, SLOWDOWN[name] if arm == SLOWED else 0.0):
                    rates[arm].append(run_load(Load(server.port, requests, 16, settings.turn_s)).requests_per_second)
    reference = np.array(rates[REFERENCE])
    return {arm: _estimated(np.array(rates[arm]) / reference) for arm in (SAME, SLOWED)}


@contextmanager
def held_back(server: RunningServer, share: float) -> Iterator[None]:
    """Make a server `share` slower within a block, by stopping its first process for a part of every 20 ms."""
    still_s = ROUND_S * share / (1 + share)

    def hold(stop: threading.Event) -> None:
        while not stop.wait(ROUND_S - still_s):
            server.send(signal.SIGSTOP)
            stop.wait(still_s)
            server.send(signal.SIGCONT)

    with meanwhile(hold) if share else nullcontext():
        yield


def call_overhead(task: Task) -> dict[str, Any]:
    """Return the median that the harness measures of a call that takes 1 ms by its own clock."""
    how = SHORT["single-stream"]
    job = Job(bundle=task.work, folder=task.work, threads=1, labels=task.test.labels, options={"ms": CALL_MS})
    clockwork = Contender(CALL, "benchmarks.peers.clockwork", job)
    turns = timed("single", [clockwork], task.test.single_texts()[: how.texts], how, _QUIET).required()
    samples = np.concatenate(turns[CALL].ms)
    return {"p50_ms": float(np.median(samples)), "samples": len(samples)}


_QUIET: Final = Context(Path(), "instrument", SilentReporter())


def figures(result: Result) -> dict[str, float]:
    """Return how often a difference was reported where there is none, how often a planted one was found, and the rest."""
    found: dict[str, float] = {}
    rows = result["rows"]
    for name in SLOWDOWN:
        arms = {row["name"]: row["trials"] for row in rows if row.get("scenario", "single-stream") == name and "trials" in row}
        if not arms.get(SAME):
            continue
        of = "" if name == "single-stream" else f"_{name}"
        found[f"trials{of}"] = len(arms[SAME])
        found[f"false_alarms{of}"] = sum(each["low"] > 1 or each["high"] < 1 for each in arms[SAME])
        found[f"slowdowns_found{of}"] = sum(each["high"] < 1 for each in arms[SLOWED])
        if not of:
            found["half_width_median"] = float(np.median([(each["high"] - each["low"]) / 2 for each in arms[SAME]]))
    (call,) = [row for row in rows if row["name"] == CALL]
    found["call_overhead_share"] = call["p50_ms"] / CALL_MS - 1
    cells = [row for row in rows if row["name"] == "coverage"]
    for seeds in dict.fromkeys(row["num_seeds"] for row in cells):
        found[f"coverage_{seeds}_seeds"] = min(row["coverage"] for row in cells if row["num_seeds"] == seeds)
    if wide := [row["width_ratio"] for row in cells if row["num_seeds"] == SEEDS[-1]]:
        found["width_ratio"] = max(wide)
    return found


def table(result: Result) -> str:
    """Return false alarms and what was found, a line for each way of timing, and the rest in words."""
    found = figures(result)
    columns = ("compared with itself", "trials", "false alarms", "one side slowed by", "found")
    cells = []
    for name, share in SLOWDOWN.items():
        of = "" if name == "single-stream" else f"_{name}"
        if f"trials{of}" in found:
            counts = [str(found[f"{each}{of}"]) for each in ("trials", "false_alarms", "slowdowns_found")]
            cells.append([name, *counts[:2], f"{share:.0%}", counts[2]])
    said = f"The median half width of an interval of single-stream was {found['half_width_median']:.2%}. "
    said += f"The harness added {found['call_overhead_share']:.2%} to a call of 1 ms."
    seeds = [f"{found[f'coverage_{count}_seeds']:.1%} with {count}" for count in SEEDS if f"coverage_{count}_seeds" in found]
    if seeds:
        said += (
            f" Simulated, the 95 % intervals over seeds hold the truth in {', '.join(seeds)} seeds (the worst of three mixes)."
        )
        said += f" At {SEEDS[-1]} seeds they are {found['width_ratio']:.2f} times as wide as those of an oracle."
    return f"{markdown_table(columns, cells)}\n\n{said}"


SCENARIO = Scenario(
    name="instrument",
    summary="Compare a bundle with itself and with itself slowed down, to count false alarms and missed slowdowns.",
    settings=InstrumentSettings,
    run=run,
    figures=figures,
    table=table,
    decided_by=(
        "export/measure",
        "benchmarks/scenarios/instrument.py",
        "benchmarks/serving",
        "distill/evaluation/intervals.py",
    ),
    minutes=240,
    quick={"trials": 1, "trials_offline": 1, "trials_serving": 1, "simulated": 20, "texts": 48, "turn_s": 0.5},
    needs=(QUALITY,),
)
