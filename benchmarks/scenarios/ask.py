"""The `ask` scenario: a language model's address asked through failures and kills, and what a cascade promises.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.asking.scripted_address import Fault, ScriptedAddress
from benchmarks.harness.scenario import Context, Outcome, Result, Scenario, markdown_table
from distill.asking.kept import read_kept
from distill.errors import GateError
from distill.progress import Reporter
from distill.settings import Settings
from export.measure.children import child, run_child
from export.runtime.cascade import choose_threshold

ROOT = Path(__file__).parents[2]
LABELS = ("negative", "positive")
FAULTS: tuple[Fault, ...] = ("429-silent", "500", "cut", "html")
STRENGTH = 2.0
DIFFERING_AT_0 = 0.5

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        texts: Texts to label.
        latency_s: Seconds that the address takes for each answer.
        failing: Share of the requests that fail, each in another way.
        concurrency: Requests at a time.
        kills: Runs that are killed, one after the other into one folder.
        drawings: Validation sets that a threshold is chosen on.
        validation_texts: Texts of each.
        agreement: What is promised.
        confidence: How surely.
    """

    texts: int = 10_000
    latency_s: float = 0.2
    failing: float = 0.05
    concurrency: int = 32
    kills: int = 20
    drawings: int = 200
    validation_texts: int = 800
    agreement: float = 0.95
    confidence: float = 0.95


QUICK = Plan(texts=120, latency_s=0.05, concurrency=8, kills=2, drawings=20)


def run_ask(*, work: Path, plan: Plan, reporter: Reporter) -> list[Row]:
    """Ask once without kills, once through them, and simulate the promise; return a row for each run and drawing."""
    for run in ("whole", "killed"):
        shutil.rmtree(work / run, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    (work / "task.toml").write_text("".join(f"[labels.{name}]\ndefinition = 'is {name}'\n" for name in LABELS))
    with (work / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([f"text {number}"] for number in range(plan.texts))])
    reporter.say(f"ask: {plan.texts} texts, {plan.failing:.0%} of the requests fail")
    rows = [whole_run(work, plan)]
    reporter.say(f"ask: the same through {plan.kills} kills")
    rows += killed_runs(work, plan)
    reporter.say(f"ask: {plan.drawings} drawings of validation texts")
    return rows + promises(plan)


def ask_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return the figures of the rows."""
    (whole,) = (row for row in rows if row["kind"] == "whole")
    kills = [row for row in rows if row["kind"] == "kill"]
    promised = [row for row in rows if row["kind"] == "promise"]
    made = [row for row in promised if not row["refused"]]
    return {
        "time_ratio_ideal": whole["seconds"] / whole["ideal_s"],
        "answers_lost": whole["missing"] + sum(row["lost"] for row in kills) + kills[-1]["missing"],
        "answers_asked_again": sum(row["asked_again"] for row in kills),
        "bound_holds_share": sum(row["holds"] for row in made) / len(made),
        "answered_share_of_oracle": float(np.mean([row["student_share"] for row in made]))
        / oracle_share(promised[0]["agreement"]),
    }


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


def whole_run(work: Path, plan: Plan) -> Row:
    """Ask for everything in one run, from the start of the command to its end."""
    out = work / "whole"
    with ScriptedAddress(_answer, fault=_failing(plan), latency_s=plan.latency_s) as address:
        started = time.perf_counter()
        done = run_child(_command(work, out, address.url, plan), cwd=ROOT)
        seconds = time.perf_counter() - started
    return {
        "kind": "whole",
        "name": "one run",
        "texts": plan.texts,
        "seconds": seconds,
        "ideal_s": math.ceil(plan.texts / plan.concurrency) * plan.latency_s,
        "requests": len(address.received),
        "most_at_once": address.most_at_once,
        "missing": plan.texts - len(_kept(out)),
        "exit_code": done.returncode,
    }


def killed_runs(work: Path, plan: Plan) -> list[Row]:
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
                    "name": f"run {number}",
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


def promises(plan: Plan) -> list[Row]:
    """Choose a threshold on each of many validation sets, and compare what it promises with the true probabilities.

    The student's strength is exponentially distributed, and the surer it is, the seldomer it differs from its fallback.
    """
    generator = np.random.default_rng(0)
    return [{"kind": "promise", "name": f"drawing {number}", **_promise(generator, plan)} for number in range(plan.drawings)]


def _promise(generator: np.random.Generator, plan: Plan) -> Row:
    strength = generator.exponential(STRENGTH, plan.validation_texts)
    top, names = generator.integers(0, 2, len(strength)), np.eye(2, dtype=np.float32)
    fallback = np.where(generator.uniform(size=len(top)) < DIFFERING_AT_0 * np.exp(-strength), 1 - top, top)
    try:
        found = choose_threshold(
            student_logits=(strength[:, None] * names[top]).astype(np.float32),
            fallback_logits=names[fallback],
            labels=np.where(generator.uniform(size=len(top)) < 0.9, fallback, 1 - fallback),
            problem_type="single_label_classification",
            wanted_agreement=plan.agreement,
            graphs={"student_graph_sha256": "", "fallback_graph_sha256": ""},
            confidence=plan.confidence,
        )
    except GateError:
        return {"agreement": plan.agreement, "refused": True, "holds": False, "student_share": 0.0}
    lowest = found.temperature * math.log(found.min_confidence / (1 - found.min_confidence))
    return {
        "agreement": plan.agreement,
        "refused": False,
        "true_agreement": 1 - _differing_above(lowest),
        "holds": 1 - _differing_above(lowest) >= plan.agreement,
        "student_share": math.exp(-lowest / STRENGTH),
    }


def _differing_above(strength: float) -> float:
    """Return the share of all texts on which a student of at least this strength differs from its fallback."""
    rate = 1 + 1 / STRENGTH
    return DIFFERING_AT_0 / STRENGTH / rate * math.exp(-rate * strength)


def oracle_share(agreement: float) -> float:
    """Return the share that the student may answer where the true probabilities are known."""
    rate = 1 + 1 / STRENGTH
    lowest = max(0.0, -math.log((1 - agreement) * STRENGTH * rate / DIFFERING_AT_0) / rate)
    return math.exp(-lowest / STRENGTH)


class AskSettings(Settings):
    """Nothing to set."""


def run(settings: AskSettings, context: Context) -> Outcome:
    """Ask and simulate; texts and answers of an earlier run are deleted."""
    del settings
    return Outcome(run_ask(work=context.folder, plan=QUICK if context.quick else Plan(), reporter=context.reporter))


def _table(result: Result) -> str:
    figures = ask_figures(result["rows"])
    return markdown_table(("figure", "value"), [(name, f"{value:,.4g}") for name, value in figures.items()])


SCENARIO = Scenario(
    name="ask",
    summary="Ask a scripted language model through failures and kills, and simulate what a cascade promises.",
    settings=AskSettings,
    run=run,
    figures=lambda result: ask_figures(result["rows"]),
    table=_table,
    decided_by=("benchmarks/scenarios/ask.py", "benchmarks/asking", "distill/asking", "export/runtime/cascade.py"),
    minutes=15,
)
