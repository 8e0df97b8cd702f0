"""`potstill ask` through failures and kills: time against the ideal, answers lost, answers asked for again.

The address is scripted, so that the ideal time is known and every request is seen. The command runs as a user's does, in a
process of its own.
"""

from __future__ import annotations

import csv
import math
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.asking.scripted_address import Fault, ScriptedAddress
from benchmarks.harness.pieces import Rows
from distill.asking.kept import read_kept
from distill.progress import Reporter
from export.measure.children import child, run_child

ROOT: Final = Path(__file__).parents[2]
LABELS: Final = ("negative", "positive")
FAULTS: Final[tuple[Fault, ...]] = ("429-silent", "500", "cut", "html")

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is asked.

    Attributes:
        texts: Texts to label.
        latency_s: Seconds that the address takes for each answer.
        failing: Share of the requests that fail, each in another way.
        concurrency: Requests at a time.
        kills: Runs that are killed, one after the other into one folder.
    """

    texts: int = 10_000
    latency_s: float = 0.2
    failing: float = 0.05
    concurrency: int = 32
    kills: int = 20


def ask_through_failures(rows: Rows, *, work: Path, plan: Plan, reporter: Reporter) -> None:
    """Ask in one run, and then through kills; keep a row for each run. What is finished is not asked again."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "task.toml").write_text("".join(f"[labels.{name}]\ndefinition = 'is {name}'\n" for name in LABELS))
    with (work / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([f"text {number}"] for number in range(plan.texts))])
    for name, last, make in (("whole", "whole", _whole_run), ("killed", _kill_name(plan.kills), _killed_runs)):
        if not rows.has(last):
            reporter.say(f"{name}: {plan.texts} texts, {plan.failing:.0%} of the requests fail")
            shutil.rmtree(work / name, ignore_errors=True)
            for row in make(work, plan):
                rows.keep(row)


def _kill_name(number: int) -> str:
    return f"kill-{number:03d}"


def failure_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of the rows there are."""
    whole = [row for row in rows if row["kind"] == "whole"]
    kills = [row for row in rows if row["kind"] == "kill"]
    figures: dict[str, float] = {}
    if whole:
        figures["time_ratio_ideal"] = whole[0]["seconds"] / whole[0]["ideal_s"]
    if whole and kills:
        figures["answers_lost"] = whole[0]["missing"] + sum(row["lost"] for row in kills) + kills[-1]["missing"]
        figures["answers_asked_again"] = sum(row["asked_again"] for row in kills)
    return figures


def _answer(text: str, labels: tuple[str, ...]) -> dict[str, float]:
    """Return a probability that the number in the text decides."""
    share = 0.05 + 0.9 * random.Random(text).random()  # noqa: S311
    return dict(zip(sorted(labels), (share, 1 - share), strict=True))


def _failing(plan: Plan) -> Callable[[int], Fault | None]:
    def fault(number: int) -> Fault | None:
        draw = random.Random(number)  # noqa: S311
        return draw.choice(FAULTS) if number > len(LABELS) and draw.random() < plan.failing else None

    return fault


def _command(work: Path, out: Path, url: str, plan: Plan) -> list[str]:
    files = ("--task", work / "task.toml", "--input", work / "texts.csv", "--out", out)
    where = ("--endpoint", url, "--model", "scripted", "--concurrency", plan.concurrency)
    return [sys.executable, "-m", "distill", "ask", *map(str, (*files, *where))]


def _whole_run(work: Path, plan: Plan) -> list[Row]:
    """Ask for everything in one run, from the start of the command to its end."""
    out = work / "whole"
    with ScriptedAddress(_answer, fault=_failing(plan), latency_s=plan.latency_s) as address:
        started = time.perf_counter()
        done = run_child(_command(work, out, address.url, plan), cwd=ROOT)
        seconds = time.perf_counter() - started
    row = {
        "kind": "whole",
        "name": "whole",
        "texts": plan.texts,
        "seconds": seconds,
        "ideal_s": math.ceil(plan.texts / plan.concurrency) * plan.latency_s,
        "requests": len(address.received),
        "most_at_once": address.most_at_once,
        "missing": plan.texts - len(_kept(out)),
        "exit_code": done.returncode,
    }
    return [row]


def _killed_runs(work: Path, plan: Plan) -> list[Row]:
    """Kill the command at random moments, `plan.kills` times, and then let it end."""
    out, rows, draw = work / "killed", [], random.Random(0)  # noqa: S311
    each = plan.texts / (plan.kills + 1)
    with ScriptedAddress(_answer, fault=_failing(plan), latency_s=plan.latency_s) as address:
        for number in range(plan.kills + 1):
            had, before = _kept(out), len(address.received)
            stop_at = before + (draw.uniform(0.2, 1.2) * each if number < plan.kills else math.inf)
            with child(
                _command(work, out, address.url, plan), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                while process.poll() is None and len(address.received) < stop_at:
                    time.sleep(0.002)
            now = _kept(out)
            rows.append(
                {
                    "kind": "kill",
                    "name": _kill_name(number),
                    "killed": process.returncode < 0,
                    "kept_before": len(had),
                    "kept": len(now),
                    "lost": len(had - now),
                    "asked_again": len(had & {one.text for one in address.received[before:]}),
                    "missing": plan.texts - len(now),
                }
            )
    return rows


def _kept(out: Path) -> set[str]:
    return {str(answer.of_text) for answer in read_kept(out)}
