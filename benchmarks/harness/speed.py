"""Rows of the scenarios that time candidates: quality and speed of one candidate on the same answers, samples included.

A row without quality has no speed either: it says why it failed, and nothing else. Finished rows are kept one by one, so an
interrupted run goes on with those that are missing; the reference is measured again with them, and ratios refer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median_high
from typing import Any

from pydantic import Field

from benchmarks.harness.candidates import Candidate, RowSettings, Task, candidates_of, make_ready, task_of
from benchmarks.harness.pieces import Pieces
from benchmarks.harness.quality import quality_part
from benchmarks.harness.scenario import Context, Outcome, Result, Row, slug_of, value_of
from distill.bundle import Bundle
from distill.errors import PotstillError
from distill.machine import available_cpus
from distill.progress import Reporter
from distill.settings import DataSettings
from export.measure.circumstances import Session
from export.measure.openers import open_form
from export.measure.protocol import prepared_seconds
from export.measure.statistics import marks_of, medians_of, over_processes, percentile, ratios_of, spread, tail
from export.measure.turns import Contender, Kind, Measured, Turns, dealt, dropping, take_turns
from export.settings import TurnSettings

ROUNDS: Mapping[Kind, int] = {"single": 20, "many": 8}
FIGURES: Mapping[Kind, tuple[str, str]] = {"single": ("p50_ms", "p50_ratio"), "many": ("texts_per_second", "rate_ratio")}
QUICK = {"rounds": 3, "processes": 3, "texts": 30, "settle_s": 0.2}
"""Enough to see that it works, too little to keep."""


class SpeedSettings(RowSettings, DataSettings, TurnSettings):
    """What is measured, how much, and how."""

    rounds: int = Field(
        0, ge=0, description="number of rounds; every row takes one turn in each; 0: the number set by the scenario"
    )
    texts: int = Field(0, ge=0, description="number of test texts to answer and time; 0: all")
    threads: int = Field(0, ge=0, description="threads per row; 0: one for single texts, all CPUs for many texts")
    together: int = Field(32, ge=2, description="maximum number of rows measured in one session, with the reference")


def run_speed(kind: Kind, settings: SpeedSettings, context: Context) -> Outcome:
    """Measure one row per candidate.

    Args:
        kind: One text at a time, on one thread, every text once; or all texts at once, on all processors.
        settings: Rows, rounds, warm-up, limits.
        context: Where.

    Raises:
        PotstillError: The reference failed.
    """
    candidates = candidates_of(settings, context)
    task = task_of(settings, settings, context, texts=settings.texts)
    return Outcome(kept_rows(kind, candidates, task, settings, context), parts_of(task))


def kept_rows(
    kind: Kind, candidates: Sequence[Candidate], task: Task, settings: SpeedSettings, context: Context
) -> list[dict[str, Any]]:
    """Return a row for each candidate, the first being what the others are compared with; finished rows are kept.

    Raises:
        PotstillError: The first failed.
    """
    kept = Pieces(context.folder / "rows")
    how = [context.scenario, kind, settings.model_dump(exclude={"bundles", "peers", "external", "url"}), context.commit]
    digests = {each.name: each.digest(how, task.test.fingerprint()) for each in candidates}
    rows = {name: row for name, digest in digests.items() if (row := kept.find(digest)) is not None}
    reference = candidates[0]
    while missing := [each for each in candidates if each.name not in rows]:
        others = [each for each in missing if each is not reference]
        together = [reference, *others[: settings.together - 1]]
        context.reporter.say(f"{context.scenario}: a session of {len(together)} rows, {len(missing)} are missing")
        for row in session_rows(kind, together, task, settings, context):
            rows[row["name"]] = row
            if "failed" not in row:
                kept.put(digests[row["name"]], row)
    return [rows[each.name] for each in candidates]


def parts_of(task: Task) -> dict[str, Any]:
    """Return what a result file says of the texts."""
    lengths = [len(text.split()) for text in task.test.single_texts()]
    return {
        "test_fingerprint": task.test.fingerprint(),
        "labels": task.test.labels,
        "truth": task.test.label_ids.tolist(),
        **({} if task.validation is None else {"validation_truth": task.validation.label_ids.tolist()}),
        "reads": f"{len(lengths):,} test texts of {median_high(lengths)} words in the median and {max(lengths)} at most, "
        f"{len(task.test.labels)} labels",
    }


def session_rows(
    kind: Kind, candidates: Sequence[Candidate], task: Task, settings: SpeedSettings, context: Context
) -> list[dict[str, Any]]:
    """Measure candidates together and return their rows, the first being what the others are compared with.

    Raises:
        PotstillError: The first failed.
    """
    threads = settings.threads or (1 if kind == "single" else available_cpus())
    contenders, failed = make_ready(candidates, task, threads=threads, reporter=context.reporter)
    measured = timed(kind, contenders, task.test.single_texts(), settings, reporter=context.reporter)

    def row(candidate: Candidate) -> dict[str, Any]:
        turns, reference = measured.turns[candidate.name], measured.turns[candidates[0].name]
        return {
            **identity_part(candidate, turns.about),
            "prepared_s": prepared_seconds(task.job(candidate, threads=1)) if candidate.kind == "peer" else None,
            **_validation_part(candidate, task),
            **quality_part(turns.all_logits(), task.test, gives=turns.about["gives"], reference=reference.all_logits()),
            **_speed_part(kind, turns, reference, measured.session),
            "reference": candidates[0].name,
            "session": measured.session.to_json(),
        }

    return rows_or_reasons(candidates, failed | measured.failed, row, reporter=context.reporter)


def rows_or_reasons(
    candidates: Sequence[Candidate],
    failed: dict[str, str],
    row_of: Callable[[Candidate], dict[str, Any]],
    *,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Return a row for each candidate; of one that failed, or whose row cannot be made, the reason.

    Raises:
        PotstillError: The first failed, which the others are compared with.
    """
    rows, first = dict[str, dict[str, Any]](), candidates[0].name
    for each in candidates:
        if each.name not in failed:
            with dropping(each.name, failed, reporter):
                rows[each.name] = row_of(each)
        if first in failed:
            raise PotstillError(f"{first} is what the others are compared with, and it failed: {failed[first]}")
    return [rows[each.name] if each.name in rows else failed_row(each, failed[each.name]) for each in candidates]


def timed(
    kind: Kind, contenders: Sequence[Contender], texts: Sequence[str], settings: SpeedSettings, *, reporter: Reporter
) -> Measured:
    """Let contenders take turns: over all rounds each single text once, or all texts at once in every round."""
    rounds = settings.rounds or ROUNDS[kind]
    hands = dealt(texts, rounds, seed=settings.seed) if kind == "single" else [range(len(texts))] * rounds
    return take_turns(contenders, texts, hands, kind, settings, reporter=reporter)


def _validation_part(candidate: Candidate, task: Task) -> dict[str, Any]:
    """Return the answers of a bundle's graph to the validation texts, by which `report` chooses."""
    form = candidate.options.get("form", "pytorch")
    if task.validation is None or form == "pytorch":
        return {}
    logits = open_form(Bundle.open(candidate.bundle), form).predict_logits(task.validation.texts)
    return {"validation_predicted": task.validation.task.decisions(logits).tolist()}


def identity_part(candidate: Candidate, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row is: name, kind, settings and their source, size, digests."""
    return {
        **{name: getattr(candidate, name) for name in ("name", "kind", "precision")},
        **{name: about[name] for name in ("settings", "source", "size_bytes")},
        "identity": dict(candidate.identity),
    }


def _speed_part(kind: Kind, turns: Turns, reference: Turns, session: Session) -> dict[str, Any]:
    """Return the latency of single texts or the rate of many, with intervals, and the ratio to the reference."""
    rates = [[1000 * len(turns.logits) / ms for ms in each] for each in turns.ms]
    name, ratio = FIGURES[kind]
    p99 = tail(turns.ms, 99)
    single = {
        "p90_ms": percentile([sample for each in turns.ms for sample in each], 90),
        "p99_ms": asdict(p99) if p99 else None,
        "latency_us": [[round(1000 * sample) for sample in each] for each in turns.ms],
    }
    return {
        "marks": marks_of(
            turns.ms, steady=turns.steady, others_processors=session.others_processors, stolen_share=session.stolen_share
        ),
        "spread": spread(turns.ms),
        "warmup": [asdict(each) for each in turns.settled],
        "process_of_round": turns.process_of,
        ratio: asdict(over_processes(ratios_of(reference.ms, turns.ms, turns.process_of))),
        name: asdict(over_processes(medians_of(turns.ms if kind == "single" else rates, turns.process_of))),
        **(single if kind == "single" else {"texts_per_second_rounds": [round(each[0], 2) for each in rates]}),
    }


def failed_row(candidate: Candidate, reason: str) -> dict[str, Any]:
    """Return the row of a candidate that could not be measured."""
    return {"name": candidate.name, "kind": candidate.kind, "precision": candidate.precision, "failed": reason}


def speed_figures(kind: Kind, result: Result) -> dict[str, float]:
    """Return the figures of a scenario; a row that failed has none."""
    name, ratio = FIGURES[kind]
    compared = {
        f"{slug_of(row['name'])}_{ratio}_{slug_of(row['reference'])}": row[ratio]["value"]
        for row in succeeded(result)
        if row[ratio]
    }
    return figures_named("macro_f1", result) | figures_named(name, result) | compared


def figures_named(name: str, result: Result) -> dict[str, float]:
    """Return one figure of each row that has it."""
    return {f"{slug_of(row['name'])}_{name}": value for row in succeeded(result) if (value := value_of(row[name])) is not None}


def succeeded(result: Result) -> list[Row]:
    """Return the rows that did not fail."""
    return [row for row in result["rows"] if "failed" not in row]
