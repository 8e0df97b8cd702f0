"""The scenario `instrument`: does the instrument find what is there, and nothing else?

A bundle against itself, many times in short form: how often the interval of the ratio leaves 1 out. The same with one side
held back: how often that is found. By the turns of `single-stream` and `offline`, and with whole servers under load. Beside
that, what the harness adds to a call of 1 ms, and how often the intervals over seeds hold the truth, by simulation.
"""

from __future__ import annotations

import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np
from pydantic import Field

from benchmarks.harness.candidates import Candidate, RowSettings, Task, bundle_candidates, task_of
from benchmarks.harness.deciding import LOAD, SPEED
from benchmarks.harness.interval_simulation import SEED_TO_TEXT, simulated_coverage
from benchmarks.harness.pieces import Pieces
from benchmarks.harness.scenario import QUALITY, Columns, Context, Outcome, Result, Scenario, table_of
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
from export.measure.turns import Contender, Kind, in_order, slowed

CALL_MS: Final = 1.0
REFERENCE, SAME, SLOWED, CALL = "reference", "same", "slowed", "call"
SLOWDOWN: Final = {"single-stream": 0.05, "offline": 0.05, "serving": 0.15}
OF: Final = {"single-stream": "", "offline": "_offline", "serving": "_serving"}
"""What stands behind the names of the figures of a way of timing."""

KINDS: Final[dict[str, Kind]] = {"single-stream": "single", "offline": "many"}
SHORT: Final = {
    "single-stream": SpeedSettings(rounds=24, texts=240, window_s=0.05),
    "offline": SpeedSettings(rounds=16, texts=480, window_s=0.05),
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
    settle_s: float = Field(3.0, gt=0, description="maximum warm-up of a process, in seconds")
    turn_s: float = Field(1.5, gt=0, description="seconds that a server is loaded in each round")


def run(settings: InstrumentSettings, context: Context) -> Outcome:
    """Make the trials that are not finished, and the simulation."""
    given = settings.bundle or f"{context.trained('2_layers')}:int8"
    (candidate,) = bundle_candidates((given,))
    task = task_of(RowSettings(bundles=(given,)), DataSettings(), context, texts=settings.texts)
    rows: list[dict[str, Any]] = []
    for name, of in OF.items():
        pieces = Pieces(context.folder / f"{name}-{candidate.digest(context.commit)[:16]}")
        make, trials = _served_trial if name == "serving" else _timed_trial, list[Trial]()
        count = getattr(settings, f"trials{of}")
        with context.reporter.task(f"trials, {name}", count) as advance:
            for seed in range(count):
                trials.append(pieces.get(str(seed), partial(make, name, candidate, task, settings, seed)))
                advance(1)
        rows += [
            {
                "scenario": name,
                "bundle": candidate.name,
                "name": arm,
                "slowdown": share,
                "trials": [each[arm] for each in trials],
            }
            for arm, share in {SAME: 0.0, SLOWED: SLOWDOWN[name]}.items()
        ]
    context.reporter.say("instrument: the cost of the harness, and simulated intervals")
    rows.append({"name": CALL, "call_ms": CALL_MS, **call_overhead(task, _short("single-stream", settings, 0))})
    for seeds, mix in product(SEEDS, SEED_TO_TEXT) if settings.simulated else ():
        found = simulated_coverage(seeds, mix, trials=settings.simulated)
        rows.append({"name": "coverage", "num_seeds": seeds, "mix": mix, **found._asdict()})
    return Outcome(rows)


def _short(name: str, settings: InstrumentSettings, seed: int) -> SpeedSettings:
    return SHORT[name].model_copy(update={"settle_s": settings.settle_s, "seed": seed})


def _timed_trial(name: str, candidate: Candidate, task: Task, settings: InstrumentSettings, seed: int) -> Trial:
    """Return by arm the ratio of a candidate to itself, with its interval and the ratio of each pair of processes."""
    held = {REFERENCE: 0.0, SAME: 0.0, SLOWED: SLOWDOWN[name]}
    contenders = [slowed(task.contender(candidate, threads=1), share, name=arm) for arm, share in held.items()]
    texts, how = task.test.single_texts(), _short(name, settings, seed)
    turns = timed(KINDS[name], contenders, texts[: how.texts], how, reporter=SilentReporter()).required()
    reference = turns[REFERENCE].ms
    return {arm: _estimated(ratios_of(reference, turns[arm].ms, turns[arm].process_of)) for arm in (SAME, SLOWED)}


def _estimated(by_process: np.ndarray) -> dict[str, Any]:
    return {**asdict(over_processes(by_process)), "by_process": by_process.tolist()}


def _served_trial(name: str, candidate: Candidate, task: Task, settings: InstrumentSettings, seed: int) -> Trial:
    """Load three servers of one bundle in turns, each a fresh process in every round, one of them held back."""
    peer, rates = SERVERS["potstill"], defaultdict[str, list[float]](list)
    requests = requests_for(peer, task.test.single_texts())
    how = SpeedSettings(seed=seed)
    for number in range(how.processes):
        for arm in in_order((REFERENCE, SAME, SLOWED), number, how):
            with started(peer, candidate.bundle, peer.settings[0]) as server:
                run_load(Load(server.port, requests, 16, settings.turn_s / 3))
                with held_back(server, SLOWDOWN[name] if arm == SLOWED else 0.0):
                    rates[arm].append(run_load(Load(server.port, requests, 16, settings.turn_s)).requests_per_second)
    return {arm: _estimated(np.divide(rates[arm], rates[REFERENCE])) for arm in (SAME, SLOWED)}


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


def call_overhead(task: Task, how: SpeedSettings) -> dict[str, Any]:
    """Return the median that the harness measures of a call that takes 1 ms by its own clock."""
    job = Job(bundle=task.work, folder=task.work, threads=1, labels=task.test.labels, options={"ms": CALL_MS})
    clockwork, texts = Contender(CALL, "benchmarks.peers.clockwork", job), task.test.single_texts()[: how.texts]
    samples = np.concatenate(timed("single", [clockwork], texts, how, reporter=SilentReporter()).required()[CALL].ms)
    return {"p50_ms": float(np.median(samples)), "samples": len(samples)}


def figures(result: Result) -> dict[str, float]:
    """Return how often a difference was reported where there is none, how often a planted one was found, and the rest."""
    rows, found = result["rows"], dict[str, float]()
    trials = {(row.get("scenario", "single-stream"), row["name"]): row["trials"] for row in rows if row.get("trials")}
    for name, of in OF.items():
        if (name, SAME) in trials:
            found |= {
                f"trials{of}": len(trials[name, SAME]),
                f"false_alarms{of}": sum(each["low"] > 1 or each["high"] < 1 for each in trials[name, SAME]),
                f"slowdowns_found{of}": sum(each["high"] < 1 for each in trials[name, SLOWED]),
            }
    half_widths = [(each["high"] - each["low"]) / 2 for each in trials["single-stream", SAME]]
    (call,) = [row for row in rows if row["name"] == CALL]
    found |= {"half_width_median": float(np.median(half_widths)), "call_overhead_share": call["p50_ms"] / CALL_MS - 1}
    simulated = [(row["num_seeds"], row) for row in rows if row["name"] == "coverage"]
    for count in dict(simulated):
        found[f"coverage_{count}_seeds"] = min(row["coverage"] for seeds, row in simulated if seeds == count)
    widths = [row["width_ratio"] for seeds, row in simulated if seeds == SEEDS[-1]]
    return found | ({"width_ratio": max(widths)} if widths else {})


def table(result: Result) -> str:
    """Return false alarms and what was found, a line for each way of timing, and the rest in words."""
    found = figures(result)
    columns: Columns = (
        ("compared with itself", lambda name: name),
        ("trials", lambda name: str(found[f"trials{OF[name]}"])),
        ("false alarms", lambda name: str(found[f"false_alarms{OF[name]}"])),
        ("one side slowed by", lambda name: f"{SLOWDOWN[name]:.0%}"),
        ("found", lambda name: str(found[f"slowdowns_found{OF[name]}"])),
    )
    said = (
        f"The median half width of an interval of single-stream was {found['half_width_median']:.2%}. "
        f"The harness added {found['call_overhead_share']:.2%} to a call of 1 ms."
    )
    seeds = [f"{found[f'coverage_{count}_seeds']:.1%} with {count}" for count in SEEDS if f"coverage_{count}_seeds" in found]
    if seeds:
        said += (
            f" Simulated, the 95 % intervals over seeds hold the truth in {', '.join(seeds)} seeds (the worst of three mixes)."
            f" At {SEEDS[-1]} seeds they are {found['width_ratio']:.2f} times as wide as those of an oracle."
        )
    return f"{table_of([name for name, of in OF.items() if f'trials{of}' in found], columns)}\n\n{said}"


SCENARIO = Scenario(
    name="instrument",
    summary="Compare a bundle with itself and with itself slowed down, to count false alarms and missed slowdowns.",
    settings=InstrumentSettings,
    run=run,
    figures=figures,
    table=table,
    decided_by=(
        *("benchmarks/scenarios/instrument.py", "benchmarks/harness/interval_simulation.py"),
        "distill/evaluation/intervals.py",
        *LOAD,
        *SPEED,
    ),
    minutes=240,
    quick={
        **dict.fromkeys(("trials", "trials_offline", "trials_serving"), 1),
        "simulated": 20,
        "texts": 48,
        "settle_s": 0.2,
        "turn_s": 0.3,
    },
    needs=(QUALITY,),
)
