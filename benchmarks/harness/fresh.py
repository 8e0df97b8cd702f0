"""Rows of fresh processes, which take turns, with the quality of what they answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness.candidates import Candidate, candidates_of, make_ready, task_of
from benchmarks.harness.quality import quality_part
from benchmarks.harness.scenario import Context, Outcome
from benchmarks.harness.speed import SpeedSettings, identity_part, parts_of, rows_or_reasons
from distill.machine import available_cpus
from export.measure.circumstances import Watch
from export.measure.turns import Fresh, dropping, fresh_process, in_order


def run_fresh(
    settings: SpeedSettings,
    context: Context,
    *,
    rounds: int,
    threads: int | None,
    part_of: Callable[[Sequence[Fresh]], dict[str, Any]],
) -> Outcome:
    """Measure one row per candidate.

    Args:
        settings: Rows, rounds, threads, limits.
        context: Where.
        rounds: Rounds unless `settings` has them; in each, every candidate is started once.
        threads: Of a candidate unless `settings` has them; None is all processors.
        part_of: From a candidate's fresh processes to its figures.

    Raises:
        PotstillError: The first candidate failed, which retention and agreement refer to.
    """
    candidates = candidates_of(settings, context)
    task = task_of(settings, settings, context, texts=settings.texts)
    contenders, failed = make_ready(
        candidates, task, threads=settings.threads or threads or available_cpus(), reporter=context.reporter
    )
    able, found = {each.name: each for each in contenders}, defaultdict[str, list[Fresh]](list)
    watch, rounds = Watch(), settings.rounds or rounds
    with context.reporter.task(context.scenario, rounds * len(able)) as advance:
        for number in range(rounds):
            for name in in_order(list(able), number, settings):
                if name not in failed:
                    with dropping(name, failed, context.reporter):
                        found[name].append(fresh_process(able[name], task.test.single_texts(), timeout_s=settings.timeout_s))
                advance(1)
    session = watch.session().to_json()

    def row(candidate: Candidate) -> dict[str, Any]:
        first, reference = found[candidate.name][0], found[candidates[0].name][0]
        return {
            **identity_part(candidate, first.about),
            **quality_part(first.logits, task.test, gives=first.about["gives"], reference=reference.logits),
            **part_of(found[candidate.name]),
            "session": session,
        }

    return Outcome(rows_or_reasons(candidates, failed, row, reporter=context.reporter), parts_of(task))
