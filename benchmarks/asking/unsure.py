"""What unsure answers are worth: students of the less sure model that keep, weigh or leave out its unsure answers.

- keep: the students `soft` of `benchmarks.asking.students`: all answers count alike
- weigh: each answer is weighed by its certainty
- leave_out: without the least certain fifth of the answers of each label
- choose: what `potstill fit` would do: a short training each way, and validation texts, labelled by the same answers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from benchmarks.asking.students import Bench, lesson_of, taught
from benchmarks.harness.scenario import markdown_table
from distill.data import Splits
from distill.recipes import Stage
from distill.settings import UNSURE_WAYS, Unsure
from distill.teachers.teacher import open_teacher
from distill.training.by_recipe import Learning
from export.fitting.scores import Scorer
from export.fitting.unsure import tried_ways
from export.fitting.weighing import RUNG_SHARE

STUDENT_OF: Final[Mapping[Unsure, str]] = {"keep": "soft", "weigh": "weigh", "leave_out": "leave_out"}
"""Of each way, that of its students' rows."""
WORDS: Final[Mapping[Unsure, str]] = {
    "keep": "all count alike",
    "weigh": "weighed by their certainty",
    "leave_out": "the least certain fifth of each label left out",
}


def make_unsure(bench: Bench) -> None:
    """Teach the students whose rows are missing, choose with each seed, and keep a row for each."""
    for seed in bench.study.seeds:
        for way in UNSURE_WAYS:
            name = f"student-{STUDENT_OF[way]}-{seed}"
            if not bench.rows.has(name):
                bench.reporter.say(f"student of unsure answers, {WORDS[way]}, seed {seed}")
                row = taught(bench, STUDENT_OF[way], seed, {"unsure": way})
                bench.rows.keep({"name": name, "kind": "student", "way": STUDENT_OF[way], "seed": seed, **row})
        if not bench.rows.has(f"choice-{seed}"):
            bench.reporter.say(f"what becomes of unsure answers, seed {seed}")
            bench.rows.keep({"name": f"choice-{seed}", "kind": "choice", "seed": seed, **_chosen(bench, seed)})


def _chosen(bench: Bench, seed: int) -> dict[str, Any]:
    teacher, train, validation = lesson_of(bench, STUDENT_OF["keep"])
    settings = bench.study.settings
    short = {"seed": seed, "epochs": max(1, round(RUNG_SHARE * settings.epochs))}
    found = tried_ways(
        Stage("student", settings.model_copy(update=short)),
        Learning(open_teacher(teacher, device="auto"), Splits(train, validation, bench.gold), (), bench.reporter),
        Scorer(validation, "macro_f1"),
        folder=bench.folder / "choice",
    )
    return {"way": found.way, "tried": [asdict(each) for each in found.tried]}


def unsure_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the ways, each the mean over its seeds, and that of the chosen ways; empty without choices."""
    chosen = {row["seed"]: row["way"] for row in rows if row["kind"] == "choice"}
    found = {(row["way"], row["seed"]): row for row in rows if row["kind"] == "student"}

    def line(words: str, ways: Mapping[int, Unsure], count: str) -> tuple[str, ...]:
        of_seeds = [found[STUDENT_OF[way], seed] for seed, way in ways.items()]
        means = (f"{np.mean([row[name] for row in of_seeds]):.4f}" for name in ("macro_f1", "expected_calibration_error"))
        return (words, str(len(of_seeds)), *means, count)

    if not chosen:
        return ""
    lines = [line(WORDS[way], dict.fromkeys(chosen, way), str([*chosen.values()].count(way))) for way in UNSURE_WAYS]
    lines.append(line("the chosen way of each seed", chosen, ""))
    return markdown_table(("unsure answers", "seeds", "macro-F1", "calibration error", "chosen"), lines)
