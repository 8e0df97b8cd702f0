"""The scenario `transfer`: four domains, every pair of them, and what a source brings where labels are few or none.

Cell by cell: a finished cell is a row file in the work folder and is not made again. Carries over with `fit_teacher` and
`fit_student`, as a user does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pydantic import Field

from benchmarks.harness.deciding import TRAINING
from benchmarks.harness.scenario import Context, Outcome, Scenario, require_known
from benchmarks.transfer.bench import Bench, Maker
from benchmarks.transfer.cells import PARTS, cells_of
from benchmarks.transfer.figures import CHINESE, CROSS_TASKS, DOMAINS, SEEDS, transfer_figures
from benchmarks.transfer.page import learning_curve, transfer_table
from benchmarks.transfer.parts import choice, features, few, floor, task, task_texts, whole
from benchmarks.transfer.without_labels import language, language_texts, stand_in, unlabelled
from distill.settings import Settings
from distill.teacher_settings import TeacherSettings

QUICK_LIMIT: Final = 350
QUICK_TEACHER: Final = TeacherSettings(epochs=1, max_length=32)
MAKERS: Final[dict[str, Maker]] = {
    "whole": whole,
    "features": features,
    **dict.fromkeys(("few", "scratch", "curve"), few),
    "stand_in": stand_in,
    "unlabelled": unlabelled,
    "choice": choice,
    "floor": floor,
    "task": task,
    "language": language,
}
"""How a cell of a kind is made."""


class TransferSettings(Settings):
    """What is made."""

    parts: tuple[str, ...] = Field(PARTS, min_length=1, description="run only these parts")
    seeds: tuple[int, ...] = Field(SEEDS, min_length=1, description="run only with these seeds")


def run(settings: TransferSettings, context: Context) -> Outcome:
    """Make what is missing of the parts and seeds, seed by seed; the result names what is still missing then.

    Raises:
        SettingsError: A part that is not known.
    """
    require_known("part", settings.parts, PARTS)
    bench = Bench(context.folder, context.reporter)
    if context.quick:
        bench = replace(bench, limit=QUICK_LIMIT, teacher=QUICK_TEACHER)
    for seed in settings.seeds:
        for part, row in cells_of(seed, bench.pieces):
            if part in settings.parts:
                bench.make(row, MAKERS[row["kind"]])
    tests = {
        **{domain: bench.domains[domain].test for domain in DOMAINS},
        **{name: task_texts(bench, name).test for name in CROSS_TASKS},
        CHINESE: language_texts(bench).test,
    }
    labels = {name: "".join(map(str, test.label_ids)) for name, test in tests.items()}
    return Outcome(bench.pieces.all(), {"missing": missing_of(bench), "test_labels": labels})


def missing_of(bench: Bench) -> list[str]:
    """Return the names of the cells of all parts and seeds that are not finished."""
    cells = {row["name"]: row for seed in SEEDS for _, row in cells_of(seed, bench.pieces)}
    return [name for name, row in cells.items() if not bench.done(row)]


SCENARIO = Scenario(
    name="transfer",
    summary="Transfer from every domain to every other, with few labels and with none, and rank candidate encoders.",
    settings=TransferSettings,
    run=run,
    figures=transfer_figures,
    table=transfer_table,
    picture=learning_curve,
    decided_by=(
        "benchmarks/scenarios/transfer.py",
        *(f"benchmarks/transfer/{name}.py" for name in ("bench", "cells", "parts", "recipes", "without_labels")),
        *("benchmarks/harness/texts.py", "distill/data", "distill/transfer"),
        *TRAINING,
    ),
    minutes=150,
    quick={"parts": ("teachers", "floors"), "seeds": (0,)},
)
