"""The scenarios `single-stream` and `offline`: all rows take turns in one run, quality on the same answers as speed.

single-stream: one text at a time, on one thread; every test text once, dealt to the rounds by length. offline: all texts in
one call, on all processors; the order and the batches are the row's own business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from benchmarks.harness.candidates import Candidate, Task
from benchmarks.harness.rows import Reference, failed_row, identity_part, latency_part, quality_part, rate_part, slug_of
from benchmarks.harness.sessions import (
    KeptRows,
    Measured,
    SpeedSettings,
    Turn,
    Turns,
    dealt,
    grouped,
    make_ready,
    measure_together,
)
from distill.errors import PotstillError
from distill.machine import available_cpus
from distill.progress import Reporter
from export.measure.protocol import prepared_seconds
from export.measure.workers import Worker

Scenario = Literal["single-stream", "offline"]
ROUNDS = {"single-stream": 20, "offline": 8}
WARM_TEXTS = 20


def run_speed(
    scenario: Scenario,
    candidates: Sequence[Candidate],
    task: Task,
    settings: SpeedSettings,
    *,
    commit: str | None,
    reporter: Reporter,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure and return the rows, one per candidate in their order, and the sessions they were measured in.

    Args:
        scenario: Which.
        candidates: The first is the reference.
        task: What they are measured on.
        settings: Rounds, warm-up, limits.
        commit: The code that measures; rows of another are measured again.
        reporter: Told of progress.

    Raises:
        PotstillError: The reference failed.
    """
    texts = min(settings.texts or len(task.test), len(task.test))
    kept = KeptRows(task.work / "rows")
    digests = {each.name: each.digest(scenario, settings.model_dump(), task.test.fingerprint(), commit) for each in candidates}
    rows = {name: row for name, digest in digests.items() if (row := kept.read(digest)) is not None}
    reference, others = candidates[0], [each for each in candidates[1:] if each.name not in rows]
    if rows:
        reporter.say(f"{scenario}: {len(rows)} rows are there already, {len(others)} to do")
    sessions = [row["in_session"] for row in rows.values() if "in_session" in row]
    groups = grouped(others, settings.together - 1) or ([] if reference.name in rows else [[]])
    for number, group in enumerate(groups, start=1):
        reporter.say(f"{scenario}: session {number} of {len(groups)}, {1 + len(group)} rows, about {_minutes(scenario, group)}")
        together = [reference, *group]
        unready = make_ready(together, task, reporter=reporter)
        able = [each for each in together if each.name not in unready]
        measured = _session(scenario, able, task, settings, texts=texts, reporter=reporter)
        for row in _rows_of(scenario, together, task, settings, measured, unready, texts=texts):
            rows[row["name"]] = row
            if "failed" not in row:
                kept.write(digests[row["name"]], row)
        sessions = [row["in_session"] for row in rows.values() if "in_session" in row]
    return [_without_session(rows[each.name], sessions) for each in candidates], _distinct(sessions)


def speed_figures(scenario: str, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of a scenario from its rows; a row that failed has none."""
    figures: dict[str, float] = {}
    middle, ratio = {"single-stream": ("p50_ms", "p50_ratio"), "offline": ("texts_per_second", "rate_ratio")}[scenario]
    for row in rows:
        if "failed" in row:
            continue
        slug = slug_of(row["name"])
        figures[f"{slug}_macro_f1"] = row["macro_f1"]
        figures[f"{slug}_{middle}"] = row[middle]["value"]
        if row[ratio] is not None:
            figures[f"{slug}_{ratio}_{slug_of(row['reference'])}"] = row[ratio]["value"]
    return figures


def _session(
    scenario: Scenario, candidates: Sequence[Candidate], task: Task, settings: SpeedSettings, *, texts: int, reporter: Reporter
) -> Measured:
    rounds = settings.rounds or ROUNDS[scenario]
    settings = settings.model_copy(update={"rounds": rounds})
    chosen = task.test.single_texts()[:texts]
    if scenario == "single-stream":
        threads, turn = settings.threads or 1, single_turn(chosen, rounds=rounds, seed=0)
    else:
        threads, turn = settings.threads or available_cpus(), _offline_turn(chosen)
    warm = warm_texts(chosen)
    return measure_together(candidates, task, settings, threads=threads, turn=turn, warm=warm, reporter=reporter)


def single_turn(texts: Sequence[str], *, rounds: int, seed: int) -> Turn:
    """Return a turn in which a worker answers its share of the texts one by one; over all rounds each text once."""
    hands = dealt([len(text) for text in texts], rounds, seed=seed)

    def turn(worker: Worker, turns: Turns, number: int) -> None:
        hand = hands[number]
        answered = worker.single([texts[index] for index in hand], warmup=min(5, len(hand)))
        turns.ms.append(list(answered.ms))
        turns.logits |= dict(zip(hand, answered.logits, strict=True))

    return turn


def _offline_turn(texts: Sequence[str]) -> Turn:
    def turn(worker: Worker, turns: Turns, number: int) -> None:
        answered = worker.many(texts, warmup=min(64, len(texts)) if number == 0 else 0)
        turns.ms.append([1000 * answered.seconds])
        turns.logits = dict(enumerate(answered.logits))

    return turn


def warm_texts(texts: Sequence[str]) -> list[str]:
    """Return texts of all lengths: the shortest, the longest and some between."""
    order = sorted(texts, key=len)
    step = max(1, len(order) // WARM_TEXTS)
    return order[::step][:WARM_TEXTS]


def _rows_of(
    scenario: Scenario,
    candidates: Sequence[Candidate],
    task: Task,
    settings: SpeedSettings,
    measured: Measured,
    unready: dict[str, str],
    *,
    texts: int,
) -> list[dict[str, Any]]:
    failed = {**unready, **measured.failed}
    first = candidates[0]
    if first.name in failed:
        raise PotstillError(f"{first.name} is what the others are compared with, and it failed: {failed[first.name]}")
    found = measured.turns[first.name]
    reference = Reference(first.name, found, found.all_logits())
    rows = []
    for candidate in candidates:
        if candidate.name in failed:
            rows.append(failed_row(candidate, failed[candidate.name]))
            continue
        turns = measured.turns[candidate.name]
        try:
            quality = quality_part(
                turns.all_logits(),
                task.test,
                texts=texts,
                gives=turns.about["gives"],
                reference=reference.logits,
                seed=settings.seed,
            )
        except (PotstillError, ValueError) as exc:
            rows.append(failed_row(candidate, str(exc)))
            continue
        others, seed = measured.session.others_processors, settings.seed
        if scenario == "single-stream":
            speed = latency_part(turns, reference=reference, others_processors=others, seed=seed)
        else:
            speed = rate_part(turns, texts=texts, reference=reference, others_processors=others, seed=seed)
        prepared_s = prepared_seconds(task.job(candidate, threads=1)) if candidate.kind == "peer" else None
        about = identity_part(candidate, turns.about, prepared_s=prepared_s, session=0)
        rows.append({**about, **quality, **speed, "in_session": measured.session.to_json()})
    return rows


def _distinct(sessions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for session in sessions:
        if session not in found:
            found.append(session)
    return found


def _without_session(row: dict[str, Any], sessions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a row that names its session by number."""
    row = dict(row)
    if "in_session" in row:
        row["session"] = _distinct(sessions).index(row.pop("in_session"))
    return row


def _minutes(scenario: str, group: Sequence[Candidate]) -> str:
    each_s = 25 if scenario == "single-stream" else 20
    return f"{max(1, round((1 + len(group)) * each_s / 60))} min"
