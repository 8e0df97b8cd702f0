"""The scenario `ablations`: what each lever of the training brings, where it should help most.

Arm by arm and seed by seed. The result is written after each row, and a later run with the same code goes on from it, so that
a few levers can be tried at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from benchmarks.ablations.gains import ablation_figures, ablation_table, missing_of, picture_of_gains
from benchmarks.ablations.levers import ARMS, LEVERS, SEEDS
from benchmarks.ablations.training import Work, make_row
from benchmarks.harness.deciding import INT8, TRAINING
from benchmarks.harness.pieces import Rows
from benchmarks.harness.scenario import QUICK_TEXTS, Context, Outcome, Row, Scenario, require_known
from distill.settings import Settings
from distill.teacher_settings import TeacherSettings

QUICK: Mapping[str, Any] = {
    "limit": QUICK_TEXTS,
    "teacher": TeacherSettings(epochs=1, batch_size=16, max_length=32),
    "share": 0.02,
    "few_epochs": 1,
}


class AblationSettings(Settings):
    """What is tried."""

    levers: tuple[str, ...] = Field(tuple(LEVERS), min_length=1, description="levers to try")
    seeds: tuple[int, ...] = Field(SEEDS, min_length=1, description="seeds of the students and of their teachers")


def run(settings: AblationSettings, context: Context) -> Outcome:
    """Train what is missing of the levers and their controls; the result names what is still missing then.

    Raises:
        SettingsError: A lever that is not known.
    """
    require_known("lever", settings.levers, LEVERS)
    rows = Rows(context.folder / "rows", earlier=context.earlier_rows(), saved=lambda rows: context.save(outcome(rows)))
    work = Work(context.folder, rows, context.reporter, **(QUICK if context.quick else {}))
    tasks = sorted({arm.task for arm in ARMS.values()})
    labels = {task: "".join(map(str, work.bench.builtin(task).test.label_ids)) for task in tasks}

    def outcome(rows: list[Row]) -> Outcome:
        return Outcome(rows, {"missing": missing_of(rows), "test_labels": labels})

    chosen = [LEVERS[name] for name in settings.levers]
    for seed in settings.seeds:
        for name in dict.fromkeys(name for lever in chosen for name in (lever.control, lever.arm)):
            make_row(work, name, ARMS[name], seed)
    return outcome(rows.all())


SCENARIO = Scenario(
    name="ablations",
    summary="Train with and without each lever (losses, copies, further texts, transfer options), and compare.",
    settings=AblationSettings,
    run=run,
    figures=ablation_figures,
    table=ablation_table,
    picture=picture_of_gains,
    decided_by=(
        *("benchmarks/scenarios/ablations.py", "benchmarks/ablations/levers.py", "benchmarks/ablations/training.py"),
        *("benchmarks/transfer/bench.py", "benchmarks/transfer/recipes.py", "benchmarks/harness/texts.py"),
        *("distill/transfer", "export/runtime"),
        *TRAINING,
        *INT8,
    ),
    minutes=430,
    quick={"levers": ("temperature_4", "lora"), "seeds": (0,)},
)
