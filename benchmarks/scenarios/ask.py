"""The `ask` scenario: texts labelled by a model behind an address, its students, and what a cascade promises.

Part by part; a finished row is a file in the work folder and is not made again.

    failures  `potstill ask` through failing requests and 20 kills
    promises  the agreement that a cascade promises, against the true one of simulated texts
    students  a fine-tuned teacher behind the address: students of its answers against those of the teacher itself, and of its
              probabilities against those of its labels
    unsure    students of the less sure answers that weigh or leave out the unsure ones, and which way `fit` would choose
    local     a small language model behind a real server on this machine, asked and judged
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from benchmarks.asking.failures import Plan, ask_through_failures, failure_figures
from benchmarks.asking.local_model import SERVED_BY, ask_local_model, local_model_table
from benchmarks.asking.promises import Promises, promise_figures, promises
from benchmarks.asking.students import Bench, Study, make_students, student_figures, students_table
from benchmarks.asking.unsure import make_unsure, unsure_table
from benchmarks.harness.deciding import TRAINING
from benchmarks.harness.environments import is_ready
from benchmarks.harness.pieces import Rows
from benchmarks.harness.scenario import QUALITY, Context, Outcome, Result, Scenario, markdown_table, require_known
from distill.progress import Reporter
from distill.settings import Settings


@dataclass(frozen=True)
class Amounts:
    """How much each part does; the defaults are those of the committed result, without the texts of the students."""

    study: Study
    failures: Plan = field(default_factory=Plan)
    promises: Promises = field(default_factory=Promises)
    local_texts: int = 200


def sample_of(study: Study) -> Amounts:
    """Return a few texts of everything, to see that it works."""
    short = study.settings.model_copy(update={"epochs": 2, "vocabulary_size": 2_000})
    few = Plan(texts=120, latency_s=0.05, concurrency=8, kills=2)
    return Amounts(replace(study, settings=short, seeds=(0,)), few, Promises(drawings=20), local_texts=20)


def run_ask(folder: Path, rows: Rows, *, parts: Sequence[str], amounts: Amounts, reporter: Reporter) -> list[dict[str, Any]]:
    """Make the rows that are missing; return all there are.

    Args:
        folder: Work folder.
        rows: Those that are finished; new ones are kept there.
        parts: Of `PARTS`.
        amounts: How much each part does.
        reporter: Told of each step.

    Raises:
        SettingsError: A part that is not known.
    """
    require_known("part", parts, PARTS)
    for part in parts:
        PARTS[part](folder, rows, amounts, reporter)
    return rows.all()


def _failures(folder: Path, rows: Rows, amounts: Amounts, reporter: Reporter) -> None:
    ask_through_failures(rows, work=folder, plan=amounts.failures, reporter=reporter)


def _promises(folder: Path, rows: Rows, amounts: Amounts, reporter: Reporter) -> None:
    del folder
    missing = [row for row in promises(amounts.promises) if not rows.has(row["name"])]
    reporter.say(f"promises: {len(missing)} drawings of validation texts")
    for row in missing:
        rows.keep(row)


def _students(folder: Path, rows: Rows, amounts: Amounts, reporter: Reporter) -> None:
    make_students(Bench(amounts.study, folder, rows, reporter))


def _unsure(folder: Path, rows: Rows, amounts: Amounts, reporter: Reporter) -> None:
    make_unsure(Bench(amounts.study, folder, rows, reporter))


def _local(folder: Path, rows: Rows, amounts: Amounts, reporter: Reporter) -> None:
    ask_local_model(rows, work=folder, data=amounts.study.data, most=amounts.local_texts, reporter=reporter)


PARTS: Final[dict[str, Callable[[Path, Rows, Amounts, Reporter], None]]] = {
    "failures": _failures,
    "promises": _promises,
    "students": _students,
    "unsure": _unsure,
    "local": _local,
}
"""The parts in the order in which they are made; the one that times first."""


def ask_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of the rows there are."""
    return {**failure_figures(rows), **promise_figures(rows), **student_figures(rows)}


class AskBenchSettings(Settings):
    """What is made, and who teaches."""

    parts: tuple[str, ...] = Field(tuple(PARTS), description="run only these parts")
    teacher: Path | None = Field(
        None,
        description="parts students and unsure: bundle of the teacher that answers; default: builtin:minilm, fine-tuned first",
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), description="parts students and unsure: seeds of the students")


def run(settings: AskBenchSettings, context: Context) -> Outcome:
    """Make the rows that are missing; those of the result that is there already are not made again."""
    teacher = settings.teacher or (context.trained("teacher") if context.quick else None)
    study = Study(context.data, teacher=teacher, seeds=settings.seeds)
    amounts = sample_of(study) if context.quick else Amounts(study)
    parts = settings.parts
    if context.quick and "local" in parts and not is_ready(SERVED_BY):
        parts = tuple(part for part in parts if part != "local")
        context.reporter.say(f"ask: part local left out; `python -m benchmarks.harness.environments {SERVED_BY}` makes it run")
    rows = Rows(context.folder / "rows", earlier=context.earlier_rows(), saved=lambda rows: context.save(Outcome(rows)))
    return Outcome(run_ask(context.folder, rows, parts=parts, amounts=amounts, reporter=context.reporter))


def _table(result: Result) -> str:
    figures = ask_figures(result["rows"])
    table = markdown_table(("figure", "value"), [(name, f"{value:,.4g}") for name, value in figures.items()])
    tables = (table, *(make(result["rows"]) for make in (students_table, unsure_table, local_model_table)))
    return "\n\n".join(filter(None, tables))


SCENARIO = Scenario(
    name="ask",
    summary="Ask a language model through failures and kills, train students on its answers, and simulate what a "
    "cascade promises.",
    settings=AskBenchSettings,
    run=run,
    figures=lambda result: ask_figures(result["rows"]),
    table=_table,
    decided_by=(
        *("benchmarks/scenarios/ask.py", "benchmarks/asking", "benchmarks/harness/texts.py", "distill/asking"),
        *("export/fitting/unsure.py", "export/runtime/cascade.py"),
        *TRAINING,
    ),
    minutes=60,
    needs=(QUALITY,),
)
